//! The nouns that three or more rooms share: names, positions, streams, appends, functions; and how records are
//! written as JSON.
//!
//! No I/O happens here. The traits at the end are the few doors through which one room uses another
//! without knowing it: a view calls a function, SQL appends to the log; the binary hands them over.

pub mod append;
pub mod erasure;
pub mod evolution;
pub mod fit;
pub mod function;
pub mod ipc;
pub mod json;
pub mod name;
pub mod position;
pub mod stream;

pub use append::{Append, AppendError, Appended, Appender, Cursor, Producer, Write, Written};
pub use erasure::{Erased, Erasures, OffsetSet};
pub use evolution::{Column, ColumnId, Constant, Evolution, Named, SchemaVersion, StreamSchema};
pub use fit::{Absent, Fit};
pub use function::{Invocation, InvocationKind, Outcome, ScalarFunction};
pub use name::{FunctionName, NameError, StreamName, ViewName};
pub use position::{Frontier, Frontiers, Offset, OffsetRange, PartitionId};
pub use stream::{Stream, StreamId, SystemColumn};
