//! The types that SQL names, and their names.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::{
    common::Result,
    logical_expr::planner::TypePlanner,
    sql::sqlparser::ast::{DataType as SqlType, ExactNumberInfo, TimezoneInfo},
};

use super::ValueError;

/// Types whose name means something else to DataFusion.
#[derive(Debug)]
pub struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let data_type = match sql_type {
            SqlType::Float(ExactNumberInfo::None) => DataType::Float64,
            SqlType::Float(ExactNumberInfo::Precision(1..=24)) => DataType::Float32,
            SqlType::Float(ExactNumberInfo::Precision(25..=53)) => DataType::Float64,
            SqlType::Float(_) => {
                let message = "the precision of type float must be from 1 to 53 bits";
                return Err(ValueError::new("22023", message).into());
            }
            // Nanoseconds reach from 1677 to 2262 only; Postgres and our streams keep microseconds.
            SqlType::Timestamp(None | Some(6), zone) => {
                let zoned = matches!(zone, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone);
                DataType::Timestamp(TimeUnit::Microsecond, zoned.then(|| "UTC".into()))
            }
            SqlType::CharacterVarying(_) | SqlType::Character(_) => DataType::Utf8,
            SqlType::Custom(name, _) => {
                let message = format!("type \"{name}\" does not exist");
                return Err(ValueError::new("42704", message).into());
            }
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}

/// The name without what is in parentheses, for messages.
pub fn name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Int8 | DataType::Int16 => "smallint",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            "unsigned integer"
        }
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Boolean => "boolean",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Time32(_) | DataType::Time64(_) => "time",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytea",
        DataType::Timestamp(_, None) => "timestamp",
        DataType::Timestamp(_, Some(_)) => "timestamptz",
        DataType::Interval(_) | DataType::Duration(_) => "interval",
        data_type if data_type.is_decimal() => "numeric",
        data_type if data_type.is_list() => "array",
        DataType::Null => "unknown",
        _ => "value",
    }
}
