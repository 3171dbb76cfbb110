//! What states were made by: those that anything else made do not fit to them and are computed again.

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use lambic_model::Frontiers;
use lambic_view::{Definition, ViewPlan, aggregate::STATE_ENCODING};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeBy {
    /// The `SELECT`, with the encodings that states depend on: a run made by others is recomputed.
    pub sql: String,
    /// What of it the states are of: a part of a recomputed view is known by its number, and what is a part may
    /// change with what can be kept. Older files have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    pub datafusion: String,
    pub state_encoding: u32,
    pub state_types: Vec<String>,
    /// The functions that the `SELECT` calls, with the digest of their code; older files have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub functions: Option<BTreeMap<String, String>>,
    /// Of a join: all its records were joined with one another. Files without it may have been made of slices, each joined
    /// with itself only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_whole_join: bool,
}

impl MadeBy {
    pub fn new(definition: &Definition, plan: &ViewPlan) -> MadeBy {
        MadeBy {
            sql: definition.sql.clone(),
            plan: Some(plan.described()),
            datafusion: datafusion::DATAFUSION_VERSION.to_owned(),
            state_encoding: STATE_ENCODING,
            state_types: state_types(&plan.state_schema),
            functions: Some(definition.functions.clone()),
            is_whole_join: plan.join().is_some(),
        }
    }

    /// True if this server would make the same states of the records up to `frontier`.
    pub fn fits(&self, definition: &Definition, plan: &ViewPlan, frontier: &Frontiers) -> bool {
        let mut now = MadeBy::new(definition, plan);
        if self.functions.is_none() {
            now.functions = None;
        }
        // A stream that was dropped and made anew has another id, and other records.
        let mut streams = frontier.0.keys();
        *self == now && streams.all(|id| plan.inputs.iter().any(|stream| stream.id == *id))
    }
}

fn state_types(schema: &Schema) -> Vec<String> {
    let fields = schema.fields().iter();
    fields.map(|field| field.data_type().to_string()).collect()
}
