//! What can be measured from outside: names, units and descriptions of metrics, and their rendering.

use std::sync::OnceLock;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::Services;

/// From 0.1 ms to 10 s.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// The process's recorder; installed at the first call. `None` if the program has installed another.
pub fn recorder() -> Option<&'static PrometheusHandle> {
    RECORDER
        .get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
                .ok()?;
            let handle = builder.install_recorder().ok()?;
            describe();
            Some(handle)
        })
        .as_ref()
}

fn describe() {
    describe_counter!(
        "lambic_appended_records_total",
        Unit::Count,
        "records acknowledged, by stream"
    );
    describe_counter!(
        "lambic_appended_bytes_total",
        Unit::Bytes,
        "bodies of acknowledged HTTP appends, by stream"
    );
    describe_counter!(
        "lambic_bad_records_total",
        Unit::Count,
        "records refused or written to the dead letters, by stream"
    );
    describe_histogram!(
        "lambic_append_seconds",
        Unit::Seconds,
        "from the first byte of an append to its acknowledgement"
    );
    describe_counter!(
        "lambic_http_requests_total",
        Unit::Count,
        "requests answered, by method, route and status"
    );
    describe_histogram!(
        "lambic_http_seconds",
        Unit::Seconds,
        "time to the head of an HTTP answer, by route"
    );
    describe_histogram!(
        "lambic_sql_seconds",
        Unit::Seconds,
        "time of a statement until its last row, by door"
    );
    describe_counter!(
        "lambic_refusals_slowed_total",
        Unit::Count,
        "requests and connections with a wrong key, signature or password that waited for that answer"
    );
    describe_counter!(
        "lambic_sql_errors_total",
        Unit::Count,
        "statements that failed, by door"
    );
    describe_gauge!(
        "lambic_postgres_connections",
        Unit::Count,
        "open Postgres connections"
    );
    describe_counter!(
        "lambic_postgres_connections_total",
        Unit::Count,
        "Postgres connections accepted"
    );
    describe_counter!(
        "lambic_postgres_connections_refused_total",
        Unit::Count,
        "Postgres connections over the limit"
    );
    describe_counter!(
        "lambic_postgres_handshakes_failed_total",
        Unit::Count,
        "Postgres connections that began with TLS and did not come to its end"
    );
    describe_gauge!(
        "lambic_changes_clients",
        Unit::Count,
        "clients that follow the changes of a view"
    );
    describe_counter!(
        "lambic_sql_plans_made_total",
        Unit::Count,
        "statements that were planned"
    );
    describe_counter!(
        "lambic_sql_plans_reused_total",
        Unit::Count,
        "executions of statements that took a kept plan"
    );
    describe_counter!(
        "lambic_sql_plans_stale_total",
        Unit::Count,
        "kept plans given up because what they read had changed"
    );
    describe_gauge!(
        "lambic_sql_texts",
        Unit::Count,
        "texts whose plans are kept, beside those of prepared statements"
    );
    describe_gauge!("lambic_log_bytes", Unit::Bytes, "size of the log on disk");
    describe_gauge!(
        "lambic_http_connections",
        Unit::Count,
        "open connections of the HTTP door"
    );
    describe_counter!(
        "lambic_http_connections_refused_total",
        Unit::Count,
        "connections answered with 503 because there were too many"
    );
    describe_counter!(
        "lambic_http_handshakes_failed_total",
        Unit::Count,
        "HTTP connections that began with TLS and did not come to its end"
    );
    describe_gauge!(
        "lambic_stream_records",
        Unit::Count,
        "records ever appended, by stream"
    );
    describe_histogram!(
        "lambic_view_switch_seconds",
        Unit::Seconds,
        "from the beginning of the catalog's write until a built version of a view is served"
    );
    describe_gauge!(
        "lambic_view_lag_records",
        Unit::Count,
        "records that a view's states do not cover yet (reads do), by view"
    );
    describe_gauge!(
        "lambic_view_state_rows",
        Unit::Count,
        "rows of a view's states, by view"
    );
    describe_gauge!(
        "lambic_view_state_bytes",
        Unit::Bytes,
        "size of a view's states, by view"
    );
    describe_gauge!(
        "lambic_view_batch_runs",
        Unit::Count,
        "batch runs of a view's present version, by view"
    );
    describe_gauge!(
        "lambic_environments",
        Unit::Count,
        "environments of functions that are alive"
    );
    describe_gauge!(
        "lambic_environments_memory_bytes",
        Unit::Bytes,
        "what the environments that are alive may use together"
    );
    describe_gauge!(
        "lambic_environments_waiting",
        Unit::Count,
        "invocations that wait for memory or a processor"
    );
    describe_gauge!(
        "lambic_spares_ready",
        Unit::Count,
        "interpreters that run and wait for a function"
    );
    describe_counter!(
        "lambic_spares_taken_total",
        Unit::Count,
        "environments that were made of an interpreter that ran already"
    );
    describe_counter!(
        "lambic_spares_missed_total",
        Unit::Count,
        "environments of interpreters that started from the beginning"
    );
}

/// The Prometheus text; what is a fact of the moment is read now.
pub fn render(services: &Services) -> Option<String> {
    let recorder = recorder()?;
    gauge!("lambic_log_bytes").set(services.log.bytes() as f64);
    let plans = services.database.plan_counts();
    counter!("lambic_sql_plans_made_total").absolute(plans.made);
    counter!("lambic_sql_plans_reused_total").absolute(plans.reused);
    counter!("lambic_sql_plans_stale_total").absolute(plans.stale);
    gauge!("lambic_sql_texts").set(plans.texts as f64);
    let counts = services.functions.counts();
    gauge!("lambic_environments").set(counts.environments as f64);
    gauge!("lambic_environments_memory_bytes").set((counts.memory_mb << 20) as f64);
    gauge!("lambic_environments_waiting").set(counts.waiting as f64);
    gauge!("lambic_spares_ready").set(counts.spares_ready as f64);
    counter!("lambic_spares_taken_total").absolute(counts.spares_taken);
    counter!("lambic_spares_missed_total").absolute(counts.spares_missed);
    let snapshot = services.log.snapshot();
    for stream in services.database.streams() {
        let records = snapshot.head(stream.id).records();
        gauge!("lambic_stream_records", "stream" => stream.name.to_string()).set(records as f64);
    }
    for view in services.database.views() {
        let name = view.name.clone();
        gauge!("lambic_view_lag_records", "view" => name.clone()).set(view.lag_records as f64);
        gauge!("lambic_view_state_rows", "view" => name.clone()).set(view.state_rows as f64);
        gauge!("lambic_view_state_bytes", "view" => name.clone()).set(view.state_bytes as f64);
        gauge!("lambic_view_batch_runs", "view" => name).set(view.batch_runs as f64);
    }
    recorder.run_upkeep();
    Some(recorder.render())
}
