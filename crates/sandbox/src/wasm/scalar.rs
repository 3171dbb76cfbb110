//! Exported plain functions as SQL functions.

use std::{fmt, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanBuilder, Float32Builder, Float64Builder, Int32Builder,
        Int64Builder, StringBuilder,
    },
    datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type},
};
use lambic_model::ScalarFunction;
use wasmtime::{
    Store, Trap,
    component::{
        Func, InstancePre, Val,
        types::{ComponentFunc, Type},
    },
};

use super::{Limits, TICK, host::Host, reason, slots::Slots};
use crate::Error;

/// A parameter or result: its SQL type, and whether it takes NULL.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slot {
    pub data_type: DataType,
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub struct Signature {
    /// As the component exports it: `great-circle`.
    export: String,
    /// As SQL calls it: `great_circle`.
    pub(super) name: String,
    pub(super) parameters: Vec<Slot>,
    pub(super) result: Slot,
}

impl Signature {
    pub fn of(export: &str, function: &ComponentFunc) -> Result<Signature, Error> {
        let refused = |what: String, found: &Type| Error::WrongWorld {
            reason: format!(
                "{what} of its function `{export}` is {}; SQL functions take and give bool, s32, s64, f32, f64, \
                 string, or an option<> of these",
                type_name(found)
            ),
        };
        let parameters = function
            .params()
            .map(|(name, found)| {
                slot(&found).ok_or_else(|| refused(format!("parameter `{name}`"), &found))
            })
            .collect::<Result<_, _>>()?;
        let results: Vec<Type> = function.results().collect();
        let result = match results.as_slice() {
            [found] => slot(found).ok_or_else(|| refused("the result".to_owned(), found))?,
            _ => {
                return Err(Error::WrongWorld {
                    reason: format!("its function `{export}` gives no result"),
                });
            }
        };
        Ok(Signature {
            export: export.to_owned(),
            name: export.replace('-', "_"),
            parameters,
            result,
        })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (index, parameter) in self.parameters.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", sql_type(&parameter.data_type))?;
        }
        write!(f, ") -> {}", sql_type(&self.result.data_type))
    }
}

fn slot(found: &Type) -> Option<Slot> {
    let plain = |found: &Type| {
        Some(match found {
            Type::Bool => DataType::Boolean,
            Type::S32 => DataType::Int32,
            Type::S64 => DataType::Int64,
            Type::Float32 => DataType::Float32,
            Type::Float64 => DataType::Float64,
            Type::String => DataType::Utf8,
            _ => return None,
        })
    };
    match found {
        Type::Option(option) => Some(Slot {
            data_type: plain(&option.ty())?,
            optional: true,
        }),
        found => Some(Slot {
            data_type: plain(found)?,
            optional: false,
        }),
    }
}

fn type_name(found: &Type) -> &'static str {
    match found {
        Type::S8 => "s8",
        Type::U8 => "u8",
        Type::S16 => "s16",
        Type::U16 => "u16",
        Type::U32 => "u32",
        Type::U64 => "u64",
        Type::Char => "a char",
        Type::List(_) => "a list",
        Type::Record(_) => "a record",
        Type::Tuple(_) => "a tuple",
        Type::Option(_) => "an option of another type",
        Type::Result(_) => "a result",
        _ => "of another type",
    }
}

fn sql_type(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "boolean",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        _ => "text",
    }
}

pub struct Scalar {
    pub(super) signature: Signature,
    arguments: Vec<DataType>,
    digest: String,
    pub(super) instance: InstancePre<Host>,
    /// Without imports nothing can wait in the host: the code runs right here.
    pure: bool,
    /// `handle-batch` answers for it, many rows at once.
    in_batches: bool,
    pub(super) limits: Limits,
    pub(super) slots: Slots,
    /// By one instance.
    pub(super) slots_taken: u32,
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scalar({} {})", self.signature, self.digest)
    }
}

impl Scalar {
    pub fn new(
        signature: Signature,
        digest: String,
        instance: InstancePre<Host>,
        pure: bool,
        limits: Limits,
        slots: Slots,
        slots_taken: u32,
    ) -> Scalar {
        let arguments = signature
            .parameters
            .iter()
            .map(|slot| slot.data_type.clone())
            .collect();
        Scalar {
            signature,
            arguments,
            digest,
            instance,
            pure,
            in_batches: false,
            limits,
            slots,
            slots_taken,
        }
    }

    /// Whether `handle-batch` is asked instead of the function, whose export only declares its types then.
    pub fn with_batches(mut self, in_batches: bool) -> Scalar {
        self.in_batches = in_batches;
        self
    }

    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    pub(super) fn store(&self) -> Store<Host> {
        let host = Host::fixed(self.limits.memory_mb, !self.pure);
        let mut store = Store::new(self.instance.engine(), host);
        store.limiter(|host| &mut host.memory);
        store
    }

    /// The time limit, for code that runs right here.
    pub(super) fn ticks(&self) -> u64 {
        let ticks = self.limits.timeout.as_millis().div_ceil(TICK.as_millis());
        u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
    }

    /// Every row has a fresh instance and the whole time limit: what a row gives must not depend on which rows the
    /// engine happened to put into its batch.
    fn run_here(&self, columns: &[ArrayRef], rows: usize) -> Result<Answers, String> {
        let ticks = self.ticks();
        self.run_rows(columns, rows, |arguments, result| {
            let mut store = self.store();
            store.set_epoch_deadline(ticks);
            store.epoch_deadline_trap();
            let instance = self
                .instance
                .instantiate(&mut store)
                .map_err(|error| self.explain(&store, &error))?;
            self.function(instance.get_func(&mut store, &self.signature.export))?
                .call(&mut store, arguments, result)
                .map_err(|error| self.explain(&store, &error))
        })
    }

    /// WASI calls may wait in the host, where only an async call can be ended at the deadline. Called from a
    /// thread of its own, since the caller's may already drive a runtime.
    fn run_apart(&self, columns: &[ArrayRef], rows: usize) -> Result<Answers, String> {
        let runtime = runtime()?;
        self.run_rows(columns, rows, |arguments, result| {
            let mut store = self.store();
            store.set_epoch_deadline(1);
            store.epoch_deadline_async_yield_and_update(1);
            let run = async {
                let instance = self
                    .instance
                    .instantiate_async(&mut store)
                    .await
                    .map_err(|error| self.explain(&store, &error))?;
                self.function(instance.get_func(&mut store, &self.signature.export))?
                    .call_async(&mut store, arguments, result)
                    .await
                    .map_err(|error| self.explain(&store, &error))
            };
            runtime
                .block_on(async { tokio::time::timeout(self.limits.timeout, run).await })
                .unwrap_or_else(|_| Err(self.too_long()))
        })
    }

    fn run_rows(
        &self,
        columns: &[ArrayRef],
        rows: usize,
        mut run: impl FnMut(&[Val], &mut [Val]) -> Result<(), String>,
    ) -> Result<Answers, String> {
        let mut answers = Answers::new(&self.signature.result.data_type, rows);
        let mut result = [Val::Bool(false)];
        for row in 0..rows {
            match self.arguments_of(columns, row) {
                None => answers.push(None)?,
                Some(arguments) => {
                    let _slots = self.slots.for_scalar(self.slots_taken);
                    run(&arguments, &mut result)?;
                    answers.push(Some(&result[0]))?;
                }
            }
        }
        Ok(answers)
    }

    fn function(&self, found: Option<Func>) -> Result<Func, String> {
        found.ok_or_else(|| format!("function `{}` is not exported", self.signature.name))
    }

    /// `None` if a parameter that does not take NULL would get one: the answer is NULL, as in Postgres's
    /// strict functions.
    fn arguments_of(&self, columns: &[ArrayRef], row: usize) -> Option<Vec<Val>> {
        self.signature
            .parameters
            .iter()
            .zip(columns)
            .map(|(slot, column)| {
                let value = (!column.is_null(row)).then(|| value(column, row));
                match (slot.optional, value) {
                    (true, value) => Some(Val::Option(value.map(Box::new))),
                    (false, value) => value,
                }
            })
            .collect()
    }

    pub(super) fn explain(&self, store: &Store<Host>, error: &wasmtime::Error) -> String {
        let name = &self.signature.name;
        if store.data().memory.refused {
            let limit = self.limits.memory_mb;
            return format!("function `{name}` needs more memory than its limit of {limit} MB");
        }
        if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
            return self.too_long();
        }
        format!("function `{name}` failed: {}", reason(error))
    }

    pub(super) fn too_long(&self) -> String {
        let rows = match self.in_batches {
            true => "one batch of rows",
            false => "one row",
        };
        format!(
            "function `{}` ran longer than {:.2} seconds on {rows}",
            self.signature.name,
            self.limits.timeout.as_secs_f64()
        )
    }
}

/// For calls that may wait in the host.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| format!("cannot start a runtime: {error}"))
}

impl ScalarFunction for Scalar {
    fn name(&self) -> &str {
        &self.signature.name
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn arguments(&self) -> &[DataType] {
        &self.arguments
    }

    fn returns(&self) -> &DataType {
        &self.signature.result.data_type
    }

    fn call(&self, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef, String> {
        let name = &self.signature.name;
        if columns.len() != self.arguments.len() {
            return Err(format!(
                "function `{name}` takes {} arguments, not {}",
                self.arguments.len(),
                columns.len()
            ));
        }
        let columns: Vec<ArrayRef> = columns
            .iter()
            .zip(&self.arguments)
            .map(|(column, expected)| {
                if column.len() != rows {
                    return Err(format!(
                        "function `{name}` got a column of {} values for {rows} rows",
                        column.len()
                    ));
                }
                if column.data_type() == expected {
                    return Ok(column.clone());
                }
                arrow::compute::cast(column, expected).map_err(|error| error.to_string())
            })
            .collect::<Result<_, _>>()?;
        let run = || match (self.in_batches, self.pure) {
            (true, is_here) => self.run_batches(&columns, rows, is_here),
            (false, true) => self.run_here(&columns, rows).map(Answers::finish),
            (false, false) => self.run_apart(&columns, rows).map(Answers::finish),
        };
        if self.pure {
            return run();
        }
        std::thread::scope(|scope| {
            scope
                .spawn(run)
                .join()
                .unwrap_or_else(|_| Err(format!("function `{name}` broke its host")))
        })
    }
}

fn value(column: &ArrayRef, row: usize) -> Val {
    match column.data_type() {
        DataType::Boolean => Val::Bool(column.as_boolean().value(row)),
        DataType::Int32 => Val::S32(column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => Val::S64(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => Val::Float32(column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Val::Float64(column.as_primitive::<Float64Type>().value(row)),
        _ => Val::String(column.as_string::<i32>().value(row).to_owned()),
    }
}

enum Answers {
    Boolean(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Text(StringBuilder),
}

impl Answers {
    fn new(data_type: &DataType, rows: usize) -> Answers {
        match data_type {
            DataType::Boolean => Answers::Boolean(BooleanBuilder::with_capacity(rows)),
            DataType::Int32 => Answers::Int32(Int32Builder::with_capacity(rows)),
            DataType::Int64 => Answers::Int64(Int64Builder::with_capacity(rows)),
            DataType::Float32 => Answers::Float32(Float32Builder::with_capacity(rows)),
            DataType::Float64 => Answers::Float64(Float64Builder::with_capacity(rows)),
            _ => Answers::Text(StringBuilder::with_capacity(rows, rows * 8)),
        }
    }

    fn push(&mut self, answer: Option<&Val>) -> Result<(), String> {
        let answer = match answer {
            Some(Val::Option(inner)) => inner.as_deref(),
            answer => answer,
        };
        match (self, answer) {
            (Answers::Boolean(column), None) => column.append_null(),
            (Answers::Int32(column), None) => column.append_null(),
            (Answers::Int64(column), None) => column.append_null(),
            (Answers::Float32(column), None) => column.append_null(),
            (Answers::Float64(column), None) => column.append_null(),
            (Answers::Text(column), None) => column.append_null(),
            (Answers::Boolean(column), Some(Val::Bool(answer))) => column.append_value(*answer),
            (Answers::Int32(column), Some(Val::S32(answer))) => column.append_value(*answer),
            (Answers::Int64(column), Some(Val::S64(answer))) => column.append_value(*answer),
            (Answers::Float32(column), Some(Val::Float32(answer))) => column.append_value(*answer),
            (Answers::Float64(column), Some(Val::Float64(answer))) => column.append_value(*answer),
            (Answers::Text(column), Some(Val::String(answer))) => column.append_value(answer),
            (_, Some(answer)) => return Err(format!("unexpected answer {answer:?}")),
        }
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        match self {
            Answers::Boolean(mut column) => Arc::new(column.finish()),
            Answers::Int32(mut column) => Arc::new(column.finish()),
            Answers::Int64(mut column) => Arc::new(column.finish()),
            Answers::Float32(mut column) => Arc::new(column.finish()),
            Answers::Float64(mut column) => Arc::new(column.finish()),
            Answers::Text(mut column) => Arc::new(column.finish()),
        }
    }
}
