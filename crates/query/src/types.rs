//! The column types of streams and their SQL names.

use arrow::datatypes::{DataType, TimeUnit};

/// The type that a stream's column gets for what SQL declared; `None` if streams cannot hold it.
pub fn of_declared(declared: &DataType) -> Option<DataType> {
    Some(match declared {
        DataType::Int8 | DataType::Int16 => DataType::Int16,
        DataType::Int32 | DataType::Int64 | DataType::Float32 | DataType::Float64 => {
            declared.clone()
        }
        DataType::Boolean | DataType::Date32 => declared.clone(),
        DataType::Decimal128(..) => declared.clone(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        _ => return None,
    })
}

/// The SQL name, as the catalog keeps it.
pub fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Int16 => "smallint".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double precision".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Utf8 => "text".to_owned(),
        DataType::Binary => "bytea".to_owned(),
        DataType::Timestamp(_, None) => "timestamp".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamptz".to_owned(),
        DataType::Decimal128(precision, scale) => format!("numeric({precision},{scale})"),
        other => other.to_string(),
    }
}

pub fn of_sql_name(name: &str) -> Option<DataType> {
    Some(match name {
        "smallint" => DataType::Int16,
        "integer" => DataType::Int32,
        "bigint" => DataType::Int64,
        "real" => DataType::Float32,
        "double precision" => DataType::Float64,
        "boolean" => DataType::Boolean,
        "date" => DataType::Date32,
        "text" => DataType::Utf8,
        "bytea" => DataType::Binary,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "timestamptz" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        other => {
            let (precision, scale) = other
                .strip_prefix("numeric(")?
                .strip_suffix(')')?
                .split_once(',')?;
            DataType::Decimal128(precision.parse().ok()?, scale.parse().ok()?)
        }
    })
}

/// The names that declarations and casts use, for suggestions.
pub const NAMES: [&str; 18] = [
    "smallint",
    "int",
    "integer",
    "bigint",
    "real",
    "float",
    "double precision",
    "numeric",
    "decimal",
    "boolean",
    "text",
    "varchar",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "interval",
    "bytea",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_type_survives_the_catalog() {
        for data_type in [
            DataType::Int16,
            DataType::Int32,
            DataType::Int64,
            DataType::Float32,
            DataType::Float64,
            DataType::Boolean,
            DataType::Date32,
            DataType::Utf8,
            DataType::Binary,
            DataType::Timestamp(TimeUnit::Microsecond, None),
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            DataType::Decimal128(12, 2),
        ] {
            assert_eq!(
                of_sql_name(&sql_name(&data_type)),
                Some(data_type.clone()),
                "{data_type}"
            );
        }
    }
}
