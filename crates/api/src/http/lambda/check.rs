//! AWS's validation: every constraint that a request breaks is told at once, in AWS's words.

use std::{fmt::Display, sync::OnceLock};

use regex::Regex;

use super::error::AwsError;

/// A regular expression of AWS's model, which its errors show. The whole value must match.
pub struct Pattern {
    text: &'static str,
    /// The part that can be said without looking ahead.
    plain: &'static str,
    /// What the rest of it forbids.
    allows: fn(&str) -> bool,
    regex: OnceLock<Regex>,
}

impl Pattern {
    const fn new(text: &'static str) -> Pattern {
        Pattern::and(text, text, |_| true)
    }

    const fn and(text: &'static str, plain: &'static str, allows: fn(&str) -> bool) -> Pattern {
        Pattern {
            text,
            plain,
            allows,
            regex: OnceLock::new(),
        }
    }

    pub fn text(&self) -> &'static str {
        self.text
    }

    pub fn matches(&self, value: &str) -> bool {
        let regex = self.regex.get_or_init(|| {
            // Digits of other scripts are none to AWS.
            let plain = self.plain.replace(r"\d", "[0-9]");
            Regex::new(&format!("^(?:{plain})$")).expect("every pattern is compiled in a test")
        });
        regex.is_match(value) && (self.allows)(value)
    }
}

fn is_no_number(value: &str) -> bool {
    !value.bytes().all(|byte| byte.is_ascii_digit())
}

pub static ROLE: Pattern =
    Pattern::new(r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+");
pub static HANDLER: Pattern = Pattern::new(r"[^\s]+");
pub static PRINCIPAL: Pattern = Pattern::new(r"[^\s]+");
pub static KMS_KEY: Pattern = Pattern::new(r"(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()");
pub static LOG_GROUP: Pattern = Pattern::new(r"[\.\-_/#A-Za-z0-9]+");
pub static VARIABLE: Pattern = Pattern::new(r"[a-zA-Z]([a-zA-Z0-9_])+");
pub static TAG: Pattern = Pattern::new(r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)");
pub static STATEMENT_ID: Pattern = Pattern::new(r"([a-zA-Z0-9-_]+)");
pub static ACTION: Pattern = Pattern::new(r"(lambda:[*]|lambda:[a-zA-Z]+|[*])");
pub static ARN: Pattern = Pattern::new(
    r"arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)",
);
pub static ACCOUNT: Pattern = Pattern::new(r"\d{12}");
pub static EVENT_SOURCE_TOKEN: Pattern = Pattern::new(r"[a-zA-Z0-9._\-]+");
pub static ORGANISATION: Pattern = Pattern::new(r"o-[a-z0-9]{10,32}");
pub static ALIAS: Pattern = Pattern::and(
    r"(?!^[0-9]+$)([a-zA-Z0-9-_]+)",
    r"[a-zA-Z0-9-_]+",
    is_no_number,
);
pub static VERSION: Pattern = Pattern::new(r"(\$LATEST(\.PUBLISHED)?|[0-9]+)");
pub static VERSION_SHIFTED: Pattern = Pattern::new(r"[0-9]+");
pub static QUALIFIER: Pattern = Pattern::new(r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+");
pub static URL_QUALIFIER: Pattern = Pattern::and(
    r"((?!^\d+$)^[0-9a-zA-Z-_]+$)",
    r"[0-9a-zA-Z-_]+",
    is_no_number,
);
pub static LAYER_PRINCIPAL: Pattern =
    Pattern::new(r"\d{12}|\*|arn:(aws[a-zA-Z-]*):iam::\d{12}:root");
pub static LAYER_ACTION: Pattern = Pattern::new(r"lambda:GetLayerVersion");
pub static DESTINATION: Pattern = Pattern::new(
    r"$|kafka://([^.]([a-zA-Z0-9\-_.]{0,248}))|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)",
);

/// The constraints that a request breaks, in the order in which they were looked at.
#[derive(Debug, Default)]
pub struct Violations(Vec<String>);

impl Violations {
    pub fn add(&mut self, member: &str, value: impl Display, constraint: impl Display) {
        self.0.push(format!(
            "Value '{value}' at '{member}' failed to satisfy constraint: {constraint}"
        ));
    }

    /// A member that must be there.
    pub fn required<T>(&mut self, member: &str, value: &Option<T>) {
        if value.is_none() {
            self.0.push(format!(
                "Value null at '{member}' failed to satisfy constraint: Member must not be null"
            ));
        }
    }

    /// Characters.
    pub fn length(&mut self, member: &str, value: Option<&str>, min: usize, max: usize) {
        let Some(value) = value else { return };
        let length = value.chars().count();
        if length > max {
            self.add(
                member,
                value,
                format_args!("Member must have length less than or equal to {max}"),
            );
        }
        if length < min {
            self.add(
                member,
                value,
                format_args!("Member must have length greater than or equal to {min}"),
            );
        }
    }

    pub fn range(&mut self, member: &str, value: Option<i64>, min: i64, max: i64) {
        let Some(value) = value else { return };
        if value > max {
            self.add(
                member,
                value,
                format_args!("Member must have value less than or equal to {max}"),
            );
        }
        if value < min {
            self.add(
                member,
                value,
                format_args!("Member must have value greater than or equal to {min}"),
            );
        }
    }

    pub fn pattern(&mut self, member: &str, value: Option<&str>, pattern: &Pattern) {
        if let Some(value) = value
            && !pattern.matches(value)
        {
            let text = pattern.text();
            self.add(
                member,
                value,
                format_args!("Member must satisfy regular expression pattern: {text}"),
            );
        }
    }

    pub fn one_of(&mut self, member: &str, value: Option<&str>, values: &[&str]) {
        if let Some(value) = value
            && !values.contains(&value)
        {
            let values = values.join(", ");
            self.add(
                member,
                value,
                format_args!("Member must satisfy enum value set: [{values}]"),
            );
        }
    }

    /// A list, of which every element is one of the values.
    pub fn each_of(&mut self, member: &str, list: Option<&[String]>, values: &[&str]) {
        let Some(list) = list else { return };
        if list.iter().any(|value| !values.contains(&value.as_str())) {
            let (list, values) = (list.join(", "), values.join(", "));
            self.add(
                member,
                format_args!("[{list}]"),
                format_args!(
                    "Member must satisfy constraint: [Member must satisfy enum value set: [{values}], Member must not be null]"
                ),
            );
        }
    }

    /// How many elements a list has.
    pub fn count<T: Display>(&mut self, member: &str, list: Option<&[T]>, min: usize, max: usize) {
        let Some(list) = list else { return };
        let listed: Vec<String> = list.iter().map(T::to_string).collect();
        let bound = match list.len() {
            length if length > max => format!("less than or equal to {max}"),
            length if length < min => format!("greater than or equal to {min}"),
            _ => return,
        };
        self.add(
            member,
            format_args!("[{}]", listed.join(", ")),
            format_args!("Member must have length {bound}"),
        );
    }

    /// The keys of a map whose content is nobody's business.
    pub fn keys<'a>(
        &mut self,
        member: &str,
        mut keys: impl Iterator<Item = &'a String>,
        pattern: &Pattern,
    ) {
        if keys.any(|key| !pattern.matches(key)) {
            let text = pattern.text();
            self.0.push(format!(
                "Value at '{member}' failed to satisfy constraint: Map keys must satisfy constraint: [Member must satisfy regular expression pattern: {text}]"
            ));
        }
    }

    pub fn end(self) -> Result<(), AwsError> {
        let all = self.0;
        match all.len() {
            0 => Ok(()),
            1 => Err(AwsError::validation(format!(
                "1 validation error detected: {}",
                all[0]
            ))),
            count => Err(AwsError::validation(format!(
                "{count} validation errors detected: {}",
                all.join("; ")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_broken_constraints_are_told_at_once() {
        let mut violations = Violations::default();
        violations.range("memorySize", Some(10_241), 128, 10_240);
        violations.range("timeout", Some(3), 1, 900);
        let message = violations.end().unwrap_err().message;
        assert_eq!(
            message,
            "1 validation error detected: Value '10241' at 'memorySize' failed to satisfy constraint: Member must have value less than or equal to 10240"
        );
        let mut violations = Violations::default();
        violations.required("role", &None::<String>);
        violations.pattern("handler", Some("a b"), &HANDLER);
        violations.one_of("packageType", Some("Tar"), &["Zip", "Image"]);
        let error = violations.end().unwrap_err();
        assert_eq!(error.kind, "ValidationException");
        assert_eq!(
            error.message,
            "3 validation errors detected: Value null at 'role' failed to satisfy constraint: Member must not be null; Value 'a b' at 'handler' failed to satisfy constraint: Member must satisfy regular expression pattern: [^\\s]+; Value 'Tar' at 'packageType' failed to satisfy constraint: Member must satisfy enum value set: [Zip, Image]"
        );
        assert!(Violations::default().end().is_ok());
    }

    #[test]
    fn patterns_match_whole_values() {
        for (pattern, good, bad) in [
            (&ROLE, "arn:aws:iam::123456789012:role/a/b", "role"),
            (&HANDLER, "a.b", "a b"),
            (&PRINCIPAL, "*", ""),
            (&KMS_KEY, "", "key"),
            (&LOG_GROUP, "/aws/lambda/f", "a b"),
            (&VARIABLE, "A_1", "1A"),
            (&TAG, "Größe 1", "a*"),
            (&STATEMENT_ID, "a-b_1", "a.b"),
            (&ACTION, "lambda:InvokeFunction", "s3:GetObject"),
            (&ARN, "arn:aws:s3:::bucket", "bucket"),
            (&ACCOUNT, "123456789012", "١٢٣٤٥٦٧٨٩٠١٢"),
            (&EVENT_SOURCE_TOKEN, "a.b", "a b"),
            (&ORGANISATION, "o-0123456789", "o-1"),
            (&ALIAS, "1a", "12"),
            (&VERSION, "$LATEST", "live"),
            (&VERSION_SHIFTED, "12", "$LATEST"),
            (&QUALIFIER, "$LATEST", "a.b"),
            (&URL_QUALIFIER, "live", "12"),
            (&LAYER_PRINCIPAL, "*", "me"),
            (&LAYER_ACTION, "lambda:GetLayerVersion", "lambda:*"),
            (&DESTINATION, "", "queue"),
        ] {
            assert!(pattern.matches(good), "{} {good}", pattern.text());
            assert!(!pattern.matches(bad), "{} {bad}", pattern.text());
        }
    }
}
