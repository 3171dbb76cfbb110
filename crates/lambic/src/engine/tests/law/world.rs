//! Streams, records and `SELECT`s of every class, chosen by a seed and told as SQL.

use rand::{RngExt, rngs::StdRng};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Smallint,
    Integer,
    Bigint,
    Real,
    Double,
    Numeric,
    Text,
    Boolean,
    Date,
    Timestamp,
    Timestamptz,
}

use Kind::*;

const KINDS: [Kind; 11] = [
    Smallint,
    Integer,
    Bigint,
    Real,
    Double,
    Numeric,
    Text,
    Boolean,
    Date,
    Timestamp,
    Timestamptz,
];

impl Kind {
    pub fn sql(self) -> &'static str {
        match self {
            Smallint => "smallint",
            Integer => "integer",
            Bigint => "bigint",
            Real => "real",
            Double => "double precision",
            Numeric => "numeric(20,3)",
            Text => "text",
            Boolean => "boolean",
            Date => "date",
            Timestamp => "timestamp",
            Timestamptz => "timestamptz",
        }
    }

    fn is_integer(self) -> bool {
        matches!(self, Smallint | Integer | Bigint)
    }

    fn is_float(self) -> bool {
        matches!(self, Real | Double)
    }

    fn is_number(self) -> bool {
        self.is_integer() || self.is_float() || self == Numeric
    }

    fn is_time(self) -> bool {
        matches!(self, Timestamp | Timestamptz)
    }

    /// Often one of few, so that groups meet; at times from the ends of what the type holds.
    pub fn literal(self, chance: &mut StdRng) -> String {
        let few = chance.random_range(-3i64..9);
        let rare = chance.random_bool(0.15);
        match self {
            Smallint => few.to_string(),
            Integer if rare => i64::from(chance.random::<i32>()).to_string(),
            Bigint if rare => chance.random_range(-(1i64 << 60)..1 << 60).to_string(),
            Integer | Bigint => few.to_string(),
            Real | Double if rare => {
                let special = ["NaN", "Infinity", "-Infinity", "-0.0", "1e30", "-1e30"];
                format!("'{}'", one_of(chance, &special))
            }
            Real | Double => format!("'{}'", chance.random_range(-1e4..1e4f64)),
            Numeric => format!("{few}.{:03}", chance.random_range(0..1000)),
            Text if rare => "'ä\u{1F600} ''%'".to_owned(),
            Text => format!("'t{few}'"),
            Boolean => chance.random_bool(0.5).to_string(),
            Date => format!(
                "'2026-0{}-1{}'",
                chance.random_range(1..4),
                chance.random_range(0..9)
            ),
            Timestamp | Timestamptz => {
                let minute = chance.random_range(0..60);
                let zone = if self == Timestamptz { "Z" } else { "" };
                let hour = chance.random_range(10..13);
                format!(
                    "'2026-01-0{}T{hour}:{minute:02}:07.5{zone}'",
                    chance.random_range(1..3)
                )
            }
        }
    }
}

fn one_of<'a, T>(chance: &mut StdRng, all: &'a [T]) -> &'a T {
    &all[chance.random_range(0..all.len())]
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

/// A stream, and the ids of the records that it has.
#[derive(Clone, Debug)]
pub struct Stream {
    pub name: &'static str,
    pub columns: Vec<Column>,
    pub partitions: u32,
    pub ids: Vec<i64>,
}

impl Stream {
    pub fn new(name: &'static str, chance: &mut StdRng) -> Stream {
        let column = |name: String, kind| Column { name, kind };
        let mut columns = vec![
            column("id".to_owned(), Bigint),
            column(
                "k".to_owned(),
                *one_of(chance, &[Text, Bigint, Integer, Date]),
            ),
        ];
        // The second can be joined with the first: it has a key of a like kind, made the same way.
        for index in 0..chance.random_range(1..6) {
            columns.push(column(format!("c{index}"), *one_of(chance, &KINDS)));
        }
        Stream {
            name,
            columns,
            partitions: chance.random_range(1..4),
            ids: Vec::new(),
        }
    }

    pub fn create(&self, chance: &mut StdRng) -> String {
        let each = self.columns.iter().map(|column| {
            let not_null = if column.name == "id" { " NOT NULL" } else { "" };
            format!("{} {}{not_null}", column.name, column.kind.sql())
        });
        let by = if chance.random_bool(0.3) {
            ", partition_by = 'k'"
        } else {
            ""
        };
        format!(
            "CREATE STREAM {} ({}) WITH (partitions = {}{by})",
            self.name,
            each.collect::<Vec<_>>().join(", "),
            self.partitions
        )
    }

    /// An `INSERT` of records with the next ids.
    pub fn insert(&mut self, next: &mut i64, chance: &mut StdRng) -> String {
        let mut rows = Vec::new();
        for _ in 0..chance.random_range(1..25) {
            let values = self
                .columns
                .iter()
                .map(|column| match column.name.as_str() {
                    "id" => next.to_string(),
                    _ if chance.random_bool(0.1) => "NULL".to_owned(),
                    _ => column.kind.literal(chance),
                });
            rows.push(format!("({})", values.collect::<Vec<_>>().join(", ")));
            self.ids.push(*next);
            *next += 1;
        }
        format!("INSERT INTO {} VALUES {}", self.name, rows.join(", "))
    }

    /// An `ERASE`, and the ids that it takes.
    pub fn erase(&mut self, chance: &mut StdRng) -> String {
        let pivot = self.ids.get(chance.random_range(0..self.ids.len().max(1)));
        let pivot = pivot.copied().unwrap_or_default();
        let condition = match chance.random_range(0..3) {
            0 => {
                self.ids.retain(|id| *id != pivot);
                format!("id = {pivot}")
            }
            1 => {
                self.ids.retain(|id| id % 4 != 1);
                "id % 4 = 1".to_owned()
            }
            _ => {
                self.ids.retain(|id| *id > pivot);
                format!("id <= {pivot}")
            }
        };
        format!(
            "ERASE FROM {} WHERE {condition} WITH (wait = {})",
            self.name,
            chance.random_bool(0.7)
        )
    }

    /// A column more, which records before it show the default of.
    pub fn add_column(&mut self, chance: &mut StdRng) -> String {
        let kind = *one_of(chance, &KINDS);
        let name = format!("c{}", self.columns.len() - 2);
        let default = match chance.random_bool(0.5) {
            true => format!(" DEFAULT {}", kind.literal(chance)),
            false => String::new(),
        };
        let sql = format!(
            "ALTER STREAM {} ADD COLUMN {name} {}{default}",
            self.name,
            kind.sql()
        );
        self.columns.push(Column { name, kind });
        sql
    }
}

/// What stands in `FROM`, and what can be taken of it.
struct Source {
    from: String,
    columns: Vec<(String, Kind)>,
    /// By which every row has its place; `None` if rows can tie.
    order: Option<String>,
}

/// A class of `SELECT`s; more may be said of the class that the planner gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    Rows,
    Grouped,
    Distinct,
    JoinGrouped,
    JoinRows,
    OuterJoin,
    Window,
    SetOperation,
    TopK,
    Subquery,
    Nested,
    Recursive,
    OverView,
}

pub const FORMS: [Form; 13] = [
    Form::Rows,
    Form::Grouped,
    Form::Distinct,
    Form::JoinGrouped,
    Form::JoinRows,
    Form::OuterJoin,
    Form::Window,
    Form::SetOperation,
    Form::TopK,
    Form::Subquery,
    Form::Nested,
    Form::Recursive,
    Form::OverView,
];

/// Chooses `SELECT`s over two streams.
pub struct Selects<'a> {
    pub streams: &'a [Stream; 2],
    /// A view that can be selected from: it has a column `n` and, if so, is grouped by `g`.
    pub view: Option<&'a str>,
    pub chance: &'a mut StdRng,
}

impl Selects<'_> {
    pub fn select(&mut self, form: Form) -> String {
        match form {
            Form::Rows => {
                let source = self.source();
                self.rows(&source)
            }
            Form::Grouped => {
                let source = self.source();
                self.grouped(&source)
            }
            Form::Distinct => {
                let source = self.source();
                let keys = self.keys(&source, 1).join(", ");
                format!(
                    "SELECT DISTINCT {keys} FROM {}{}",
                    source.from,
                    self.filter(&source)
                )
            }
            Form::JoinGrouped => {
                let source = self.join("JOIN");
                self.grouped(&source)
            }
            Form::JoinRows => {
                let source = self.join("JOIN");
                self.rows(&source)
            }
            Form::OuterJoin => {
                let kind = *one_of(self.chance, &["LEFT JOIN", "FULL JOIN", "RIGHT JOIN"]);
                let source = self.join(kind);
                let source = Source {
                    order: None,
                    ..source
                };
                if self.chance.random_bool(0.5) {
                    self.rows(&source)
                } else {
                    self.grouped(&source)
                }
            }
            Form::Window => {
                let stream = self.stream();
                let value = self.column(&stream).0;
                let call = *one_of(
                    self.chance,
                    &["row_number()", "rank()", "lag(id)", "count(*)", "max(id)"],
                );
                format!(
                    "SELECT id, {value} AS v, {call} OVER (PARTITION BY k ORDER BY id) AS place FROM {}{}",
                    stream.from,
                    self.filter(&stream)
                )
            }
            Form::SetOperation => {
                let operation =
                    *one_of(self.chance, &["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]);
                let [first, second] = self.streams;
                format!(
                    "SELECT id % 7 AS r, id % 2 = 0 AS even FROM {} {operation} SELECT id % 5, id % 2 = 0 FROM {}",
                    first.name, second.name
                )
            }
            Form::TopK => {
                let stream = self.stream();
                let value = self.column(&stream).0;
                let limit = self.chance.random_range(1..9);
                format!(
                    "SELECT id, {value} AS v FROM {} ORDER BY {value} DESC, id LIMIT {limit}",
                    stream.from
                )
            }
            Form::Subquery => {
                let [first, second] = self.streams;
                let not = *one_of(self.chance, &["", "NOT "]);
                format!(
                    "SELECT k, count(*) AS n FROM {} WHERE {not}EXISTS (SELECT 1 FROM {} AS o WHERE o.id % 11 = {}.id % 11 + 3) GROUP BY k",
                    first.name, second.name, first.name
                )
            }
            Form::Nested => {
                let stream = self.stream();
                format!(
                    "SELECT n, count(*) AS groups, max(last) AS last FROM (SELECT k, count(*) AS n, max(id) AS last FROM {} GROUP BY k) AS g GROUP BY n",
                    stream.from
                )
            }
            Form::Recursive => format!(
                "WITH RECURSIVE r AS (SELECT max(id) AS at FROM {} UNION ALL SELECT at / 2 FROM r WHERE at > 1) SELECT at, count(*) AS n FROM r GROUP BY at",
                self.streams[0].name
            ),
            Form::OverView => match self.view {
                None => self.select(Form::Nested),
                Some(view) => format!("SELECT n, count(*) AS views FROM {view} GROUP BY n"),
            },
        }
    }

    fn stream(&mut self) -> Source {
        let stream = one_of(self.chance, self.streams);
        let columns = stream
            .columns
            .iter()
            .map(|column| (column.name.clone(), column.kind));
        Source {
            from: stream.name.to_owned(),
            columns: columns.collect(),
            order: Some("id".to_owned()),
        }
    }

    /// A stream, its rows in windows of time, or both streams in one.
    fn source(&mut self) -> Source {
        let mut source = self.stream();
        let time = source
            .columns
            .iter()
            .find(|(_, kind)| kind.is_time())
            .cloned();
        match (self.chance.random_range(0..6), time) {
            (0 | 1, Some((time, kind))) => {
                let hops = self.chance.random_bool(0.4);
                source.from = match hops {
                    true => format!(
                        "HOP({}, {time}, INTERVAL '30 minutes', INTERVAL '1 hour')",
                        source.from
                    ),
                    false => format!("TUMBLE({}, {time}, INTERVAL '45 minutes')", source.from),
                };
                source.columns.push(("window_start".to_owned(), kind));
                if hops {
                    source.order = None;
                }
                source
            }
            (2, _) => {
                let [first, second] = self.streams;
                Source {
                    from: format!(
                        "(SELECT id, id % 3 AS k, id / 2 AS h FROM {} UNION ALL SELECT id, id % 4, id FROM {}) AS u",
                        first.name, second.name
                    ),
                    columns: ["id", "k", "h"]
                        .map(|name| (name.to_owned(), Bigint))
                        .to_vec(),
                    order: None,
                }
            }
            _ => source,
        }
    }

    /// Both streams, or one with itself.
    fn join(&mut self, kind: &str) -> Source {
        let [first, second] = self.streams;
        let second = if self.chance.random_bool(0.2) {
            first
        } else {
            second
        };
        let of = |alias: &str, stream: &Stream| -> Vec<(String, Kind)> {
            let each = stream.columns.iter();
            each.map(|column| (format!("{alias}.{}", column.name), column.kind))
                .collect()
        };
        let (ours, theirs) = (of("a", first), of("b", second));
        let pairs: Vec<(&String, &String)> = ours
            .iter()
            .flat_map(|(our, kind)| {
                let like = theirs.iter().filter(move |(_, other)| {
                    other == kind || (other.is_integer() && kind.is_integer())
                });
                like.map(move |(their, _)| (our, their))
            })
            // Few rows meet by their ids, and all by a truth.
            .filter(|(our, their)| our.as_str() != "a.id" || their.as_str() == "b.id")
            .collect();
        let (our, their) = *one_of(self.chance, &pairs);
        let mut on = match self.chance.random_range(0..4) {
            0 => "a.id % 13 = b.id % 13".to_owned(),
            _ => format!("{our} = {their}"),
        };
        if self.chance.random_bool(0.3) {
            on += " AND a.id % 3 = b.id % 3";
        }
        if self.chance.random_bool(0.3) {
            on += " AND a.id < b.id + 9";
        }
        Source {
            from: format!("{} AS a {kind} {} AS b ON {on}", first.name, second.name),
            columns: ours.iter().chain(&theirs).cloned().collect(),
            order: Some("a.id, b.id".to_owned()),
        }
    }

    fn column(&mut self, source: &Source) -> (String, Kind) {
        one_of(self.chance, &source.columns).clone()
    }

    fn filter(&mut self, source: &Source) -> String {
        match self.chance.random_bool(0.4) {
            true => format!(" WHERE {}", self.condition(source)),
            false => String::new(),
        }
    }

    fn condition(&mut self, source: &Source) -> String {
        let (column, kind) = self.column(source);
        match self.chance.random_range(0..3) {
            0 => format!("{column} IS NOT NULL"),
            1 => format!("{column} <> {}", kind.literal(self.chance)),
            _ => format!("{column} >= {}", kind.literal(self.chance)),
        }
    }

    fn rows(&mut self, source: &Source) -> String {
        let shown = self.keys(source, 1).join(", ");
        format!("SELECT {shown} FROM {}{}", source.from, self.filter(source))
    }

    /// Expressions over columns, at least so many, named `g`, `g1`, ….
    fn keys(&mut self, source: &Source, least: usize) -> Vec<String> {
        let count = self.chance.random_range(least..3);
        let names = (0..count).map(|index| {
            if index == 0 {
                "g".to_owned()
            } else {
                format!("g{index}")
            }
        });
        names
            .map(|name| format!("{} AS {name}", self.key(source)))
            .collect()
    }

    fn key(&mut self, source: &Source) -> String {
        let (column, kind) = self.column(source);
        let other = self.chance.random_range(0..3);
        match kind {
            _ if other == 0 => column,
            _ if kind.is_integer() && other == 1 => format!("{column} % 3"),
            _ if kind.is_number() => format!("CASE WHEN {column} > 2 THEN 'more' ELSE 'less' END"),
            Text => format!("upper({column})"),
            Boolean => format!("coalesce({column}, false)"),
            Date => format!("date_trunc('month', {column})"),
            _ if other == 1 => format!("date_bin(INTERVAL '20 minutes', {column})"),
            _ => format!("date_trunc('hour', {column})"),
        }
    }

    fn grouped(&mut self, source: &Source) -> String {
        let keys = self.keys(source, 0);
        let mut shown = keys.clone();
        shown.push("count(*) AS n".to_owned());
        for index in 0..self.chance.random_range(1..4) {
            let aggregate = self.aggregate(source);
            let filter = match self.chance.random_bool(0.2) {
                true => format!(" FILTER (WHERE {})", self.condition(source)),
                false => String::new(),
            };
            shown.push(format!("{aggregate}{filter} AS a{index}"));
        }
        let by: Vec<String> = (1..=keys.len()).map(|place| place.to_string()).collect();
        let by = if by.is_empty() {
            String::new()
        } else {
            format!(" GROUP BY {}", by.join(", "))
        };
        let having = if self.chance.random_bool(0.2) {
            " HAVING count(*) > 1"
        } else {
            ""
        };
        format!(
            "SELECT {} FROM {}{}{by}{having}",
            shown.join(", "),
            source.from,
            self.filter(source)
        )
    }

    fn aggregate(&mut self, source: &Source) -> String {
        let (column, kind) = self.column(source);
        let mut calls = vec![
            format!("count({column})"),
            format!("count(DISTINCT {column})"),
            format!("approx_distinct({column})"),
        ];
        if let Some(order) = &source.order {
            calls.push(format!("first_value({column} ORDER BY {order})"));
            calls.push(format!("last_value({column} ORDER BY {order})"));
            calls.push(format!("array_agg({column} ORDER BY {order})"));
            if kind == Text {
                calls.push(format!("string_agg({column}, '-' ORDER BY {order})"));
            }
        }
        match kind {
            Boolean => {
                calls.extend(["bool_and", "bool_or"].map(|name| format!("{name}({column})")))
            }
            _ => calls.extend(["min", "max"].map(|name| format!("{name}({column})"))),
        }
        if kind.is_number() {
            calls.extend(["sum", "avg", "sum", "avg"].map(|name| format!("{name}({column})")));
        }
        if kind.is_integer() {
            calls.extend(
                ["bit_and", "bit_or", "bit_xor", "median"].map(|name| format!("{name}({column})")),
            );
        }
        if kind.is_integer() || kind.is_float() {
            calls.extend(["stddev", "var_pop"].map(|name| format!("{name}({column})")));
        }
        if kind == Double {
            calls.push(format!("corr({column}, {column})"));
            calls.push(format!("covar_samp({column}, {column})"));
        }
        one_of(self.chance, &calls).clone()
    }
}
