//! The environment variables of a program: AWS's names, in AWS's order of who overrides whom.

use std::{collections::BTreeMap, net::SocketAddrV4, path::Path};

use super::{INITIALIZATION_TYPE, Launch, Spec, layout::Layout};

/// What the host knows beside the spec.
pub struct Facts<'a> {
    pub layout: &'a Layout,
    /// As it is found from inside.
    pub program: &'a Path,
    /// Host and port.
    pub runtime_api: &'a str,
    pub egress: Option<SocketAddrV4>,
    pub log_stream: &'a str,
}

/// What every image finds on its `PATH`, if it does not say otherwise.
const IMAGE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Defaults stand below an image's own, those below the user's, the user's below what AWS reserves.
pub fn variables(spec: &Spec, facts: &Facts<'_>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        variables.insert(name.to_owned(), value);
    };
    for (name, value) in defaults(spec, facts) {
        set(name, value);
    }
    let of_image = spec.launch.image().map(|image| &image.environment);
    for (name, value) in of_image.into_iter().flatten().chain(&spec.environment) {
        // One that no environment can hold would end the start.
        if !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') {
            set(name, value.clone());
        }
    }
    for (name, value) in reserved(spec, facts) {
        set(name, value);
    }
    for (name, value) in &spec.environment_reserved {
        set(name, value.clone());
    }
    variables
}

fn defaults(spec: &Spec, facts: &Facts<'_>) -> Vec<(&'static str, String)> {
    let Layout { task, opt, tmp, .. } = facts.layout;
    let [task, opt, tmp] = [task, opt, tmp].map(|path| path.display());
    let mut path = format!("/usr/local/bin:/usr/bin:/bin:{opt}/bin");
    let mut libraries = format!("{task}:{task}/lib:{opt}/lib");
    if spec.launch.image().is_some() {
        path = IMAGE_PATH.to_owned();
    }
    if spec.launch.interpreter().is_some()
        && let Some(bin) = facts.program.parent()
        && !path.split(':').any(|folder| Path::new(folder) == bin)
    {
        path = format!("{}:{path}", bin.display());
        // Not where it was built for.
        if let Some(lang) = bin.parent().filter(|lang| lang.starts_with("/var/lang")) {
            libraries = format!("{}/lib:{libraries}", lang.display());
        }
    }
    let mut defaults = vec![
        ("PATH", path),
        ("LANG", "C.UTF-8".to_owned()),
        ("TZ", ":UTC".to_owned()),
        ("HOME", tmp.to_string()),
        ("TMPDIR", tmp.to_string()),
    ];
    if let Some(egress) = facts.egress {
        let proxy = format!("http://{egress}");
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            defaults.push((name, proxy.clone()));
        }
        for name in ["NO_PROXY", "no_proxy"] {
            defaults.push((name, "127.0.0.1,localhost".to_owned()));
        }
        // From version 24 on.
        defaults.push(("NODE_USE_ENV_PROXY", "1".to_owned()));
    }
    match &spec.launch {
        Launch::Python(python) => defaults.push((
            "PYTHONPATH",
            format!(
                "{opt}/python/lib/python{}/site-packages:{opt}/python",
                python.version
            ),
        )),
        Launch::Node(node) => defaults.push((
            "NODE_PATH",
            format!(
                "{opt}/nodejs/node{}/node_modules:{opt}/nodejs/node_modules:{task}/node_modules:{task}",
                node.version
            ),
        )),
        Launch::Bootstrap => {}
        // Its own libraries are where its own linker looks, and it says itself where its code is.
        Launch::Image(_) => {
            defaults.extend(folders(facts.layout));
            return defaults;
        }
    }
    defaults.push(("LD_LIBRARY_PATH", libraries));
    defaults
}

fn folders(layout: &Layout) -> [(&'static str, String); 2] {
    [
        ("LAMBDA_TASK_ROOT", layout.task.display().to_string()),
        ("LAMBDA_RUNTIME_DIR", layout.runtime.display().to_string()),
    ]
}

fn reserved(spec: &Spec, facts: &Facts<'_>) -> Vec<(&'static str, String)> {
    let layout = facts.layout;
    let mut reserved = vec![
        ("AWS_REGION", "local".to_owned()),
        ("AWS_DEFAULT_REGION", "local".to_owned()),
        ("AWS_LAMBDA_RUNTIME_API", facts.runtime_api.to_owned()),
        (INITIALIZATION_TYPE, "on-demand".to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", spec.function.clone()),
        ("AWS_LAMBDA_FUNCTION_VERSION", spec.qualifier.clone()),
        (
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            spec.memory_mb.to_string(),
        ),
        (
            "AWS_LAMBDA_LOG_GROUP_NAME",
            format!("/aws/lambda/{}", spec.function),
        ),
        ("AWS_LAMBDA_LOG_STREAM_NAME", facts.log_stream.to_owned()),
    ];
    if spec.launch.image().is_some() {
        return reserved;
    }
    reserved.push(("_HANDLER", spec.handler.clone()));
    reserved.extend(folders(layout));
    if !spec.runtime.starts_with("provided") {
        reserved.push(("AWS_EXECUTION_ENV", format!("AWS_Lambda_{}", spec.runtime)));
    }
    if layout.opt != Path::new("/opt") {
        // For our Python client only, which takes it out of the environment.
        reserved.push(("LAMBIC_LAYERS", layout.opt.display().to_string()));
    }
    reserved
}

/// AWS's name of a log stream: `2026/11/27/[7]0123456789abcdef0123456789abcdef`.
pub fn log_stream(now_us: i64, qualifier: &str, id: u128) -> String {
    let (year, month, day) = civil(now_us.div_euclid(86_400_000_000));
    format!("{year:04}/{month:02}/{day:02}/[{qualifier}]{id:032x}")
}

/// The date of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_log_stream_has_the_name_that_aws_gives() {
        let day = 86_400_000_000;
        for (now_us, date) in [
            (0, "1970/01/01"),
            (day - 1, "1970/01/01"),
            (day * 59, "1970/03/01"),
            (1_709_164_800_000_000, "2024/02/29"),
            (1_764_201_600_000_000, "2025/11/27"),
        ] {
            let name = log_stream(now_us, "$LATEST", 0xab);
            assert_eq!(
                name,
                format!("{date}/[$LATEST]000000000000000000000000000000ab")
            );
        }
    }

    #[test]
    fn an_image_sets_what_neither_users_nor_aws_set() {
        let mut spec = Spec::example();
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<Vec<_>>()
        };
        spec.launch = Launch::Image(crate::process::Image {
            root: "/images/one/root".into(),
            entry_point: vec!["run".to_owned()],
            working_dir: "/".to_owned(),
            environment: pairs(&[
                ("PATH", "/app/bin"),
                ("LAMBDA_TASK_ROOT", "/app"),
                ("MINE", "image"),
                ("AWS_LAMBDA_RUNTIME_API", "elsewhere"),
                ("", "nameless"),
            ]),
        });
        spec.environment = pairs(&[("MINE", "user")]);
        let facts = Facts {
            layout: &Layout::own_root(),
            program: Path::new("run"),
            egress: None,
            runtime_api: "127.0.0.1:9001",
            log_stream: "stream",
        };
        let variables = variables(&spec, &facts);
        for (name, value) in [
            ("PATH", Some("/app/bin")),
            ("LAMBDA_TASK_ROOT", Some("/app")),
            ("LAMBDA_RUNTIME_DIR", Some("/var/runtime")),
            ("MINE", Some("user")),
            ("AWS_LAMBDA_RUNTIME_API", Some("127.0.0.1:9001")),
            ("HOME", Some("/tmp")),
            ("LD_LIBRARY_PATH", None),
            ("_HANDLER", None),
            ("AWS_EXECUTION_ENV", None),
            ("", None),
        ] {
            assert_eq!(variables.get(name).map(String::as_str), value, "{name}");
        }
    }

    #[test]
    fn users_set_what_aws_does_not_reserve() {
        let mut spec = Spec::example();
        spec.environment = [
            ("TZ", "Europe/Vienna"),
            ("MINE", "1"),
            ("AWS_REGION", "mars"),
            ("_HANDLER", "evil.handler"),
            ("a=b", "c"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        spec.environment_reserved = vec![("AWS_REGION".to_owned(), "eu-north-1".to_owned())];
        let facts = Facts {
            layout: &Layout::own_root(),
            program: Path::new("/x/bin/python3"),
            egress: None,
            runtime_api: "127.0.0.1:9001",
            log_stream: "stream",
        };
        let shown: Vec<String> = variables(&spec, &facts)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        expect![[r#"
            AWS_DEFAULT_REGION=local
            AWS_EXECUTION_ENV=AWS_Lambda_python3.11
            AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128
            AWS_LAMBDA_FUNCTION_NAME=probe
            AWS_LAMBDA_FUNCTION_VERSION=7
            AWS_LAMBDA_INITIALIZATION_TYPE=on-demand
            AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/probe
            AWS_LAMBDA_LOG_STREAM_NAME=stream
            AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001
            AWS_REGION=eu-north-1
            HOME=/tmp
            LAMBDA_RUNTIME_DIR=/var/runtime
            LAMBDA_TASK_ROOT=/var/task
            LANG=C.UTF-8
            LD_LIBRARY_PATH=/var/task:/var/task/lib:/opt/lib
            MINE=1
            PATH=/x/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin
            PYTHONPATH=/opt/python/lib/python3.11/site-packages:/opt/python
            TMPDIR=/tmp
            TZ=Europe/Vienna
            _HANDLER=app.handler
        "#]]
        .assert_eq(&shown.concat());
    }
}
