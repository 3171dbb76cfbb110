//! `lambic function import`: what other tools deploy, read into a plan, shown, and made.
//!
//! Reading is apart from making: a source with a mistake is refused whole, with all of its mistakes, before anything is
//! changed; so is one of which the server says, when it is asked, that it would refuse some of it. What is there already
//! is compared first, so that a second import changes only what changed.

mod apply;
mod cargo_lambda;
mod changes;
mod check;
mod cloudformation;
mod events;
mod known;
mod plan;
mod sam;
mod serverless;
mod stays;
mod variables;

use std::{
    fs,
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use zip::ZipArchive;

use super::{
    super::Global,
    api::Api,
    guess,
    package::Package,
    runtimes::{Language, Machine},
};
use crate::{
    cli,
    client::Failure,
    output::{self, Rows, counted},
    yaml_source::Source,
};
use apply::Outcome;
use check::Refused;
use plan::{Function, LeftOut, Plan};

/// Of a template that stands in a zip, with its code.
const UNPACKED_BYTES_MAX: u64 = 262_144_000;

/// What the command line says of a source.
pub struct Asked<'a> {
    parameters: &'a [(String, String)],
    /// For each language at most one counts.
    runtimes: Vec<String>,
    machine: &'a Machine<'a>,
}

impl Asked<'_> {
    /// What runs functions that name this runtime.
    fn runtime(&self, named: &str) -> Result<String, String> {
        let language = Language::of(named);
        let mut given = self.runtimes.iter();
        if let Some(runtime) = given.find(|runtime| Language::of(runtime) == language) {
            return Ok(runtime.clone());
        }
        self.machine
            .runtime(named)
            .map_err(|error| format!("{error} (--runtime NAME runs it by another version)"))
    }
}

pub fn run(global: &Global, args: &cli::FunctionImport) -> anyhow::Result<()> {
    let machine = Machine::of_server(global);
    let runtimes = args.runtime.iter();
    let runtimes = runtimes.map(|written| machine.runtime(written));
    let asked = Asked {
        parameters: &args.parameters,
        runtimes: runtimes
            .collect::<Result<_, _>>()
            .map_err(anyhow::Error::msg)?,
        machine: &machine,
    };
    let mut plan = read(&args.source, &asked)?;
    if let Some(name) = &args.name {
        rename(&mut plan, name)?;
    }
    plan.check_names();
    plan.check_dependencies();
    if !plan.problems.is_empty() {
        bail!("{}\nnothing was imported", plan.problems.join("\n"));
    }
    let wrong = plan.lost.iter().chain(&plan.warnings);
    if args.strict && wrong.clone().next().is_some() {
        let shown: Vec<String> = wrong.map(LeftOut::shown).collect();
        bail!("{}\nnothing was imported: --strict", shown.join("\n"));
    }
    if plan.functions.is_empty() && plan.layers.is_empty() {
        tell(&plan);
        bail!("there is nothing in {} that can be taken over", plan.source);
    }
    if args.plan {
        return show_plan(global, &plan, &machine);
    }
    let api = Api::new(global)?;
    // A server that is not there is told once, not for every function.
    api.functions()?;
    let refused = check::refused(&api, &plan)?;
    let refused = refused.iter();
    let refused = refused.map(|one| one.shown(&plan.functions[one.function].name));
    let lacking = plan.functions.iter().filter_map(|function| {
        let why = machine.missing(&function.runtime)?;
        Some(format!("{}{}: {why}", function.place, function.name))
    });
    let wrong: Vec<String> = refused.chain(lacking).collect();
    if !wrong.is_empty() {
        bail!("{}\nnothing was imported", wrong.join("\n"));
    }
    let outcomes = apply::apply(&api, &plan);
    report(global, &plan, &outcomes)?;
    ended(&plan, &outcomes, "failed", ", the others were imported")
}

/// An error where something failed, or a function is missing: others may count on it. `others` stands behind the latter where
/// nothing failed.
fn ended(plan: &Plan, outcomes: &[Outcome], how: &str, others: &str) -> anyhow::Result<()> {
    let failed = outcomes.iter().filter(|one| one.error.is_some()).count();
    let mut wrong = Vec::new();
    if failed > 0 {
        let all = counted(outcomes.len() as u64, "resource");
        wrong.push(format!("{failed} of {all} {how}"));
    }
    let others = if failed == 0 { others } else { "" };
    match plan.lost.len() as u64 {
        0 => {}
        1 => wrong.push(format!("1 function is left out{others}")),
        count => wrong.push(format!("{count} functions are left out{others}")),
    }
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => bail!(wrong.join("; ")),
    }
}

/// What the server would refuse for want of an interpreter is told beforehand.
fn mark_missing(plan: &Plan, outcomes: &mut [Outcome], machine: &Machine) {
    let functions = outcomes.iter_mut().skip(plan.layers.len());
    for (function, outcome) in plan.functions.iter().zip(functions) {
        if let Some(why) = machine.missing(&function.runtime) {
            outcome.change = "cannot run".to_owned();
            outcome.error = Some(anyhow::Error::msg(why));
        }
    }
}

/// What the server would refuse for any other reason is, too.
fn mark_refused(plan: &Plan, outcomes: &mut [Outcome], refused: &[Refused]) {
    let functions = outcomes.iter_mut().skip(plan.layers.len()).enumerate();
    for (at, outcome) in functions.filter(|(_, outcome)| outcome.error.is_none()) {
        let reasons = refused.iter().filter(|one| one.function == at);
        let reasons: Vec<String> = reasons.map(Refused::told).collect();
        if !reasons.is_empty() {
            outcome.change = "refused".to_owned();
            outcome.error = Some(anyhow::Error::msg(reasons.join("\n  ")));
        }
    }
}

/// Without a server it is shown all the same, but for what is there already.
fn show_plan(global: &Global, plan: &Plan, machine: &Machine) -> anyhow::Result<()> {
    let compared = Api::new(global)
        .and_then(|api| Ok((apply::compare(&api, plan)?, check::refused(&api, plan)?)));
    let (mut outcomes, refused) = match compared {
        Ok(compared) => compared,
        Err(error) if error.downcast_ref::<Failure>().is_some() => return Err(error),
        Err(_) => {
            eprintln!(
                "no server answers at {}: what is there already is not known",
                global.server
            );
            let names = plan.layers.iter().map(|layer| &layer.name);
            let names = names.chain(plan.functions.iter().map(|function| &function.name));
            let unknown = names.map(|name| Outcome {
                name: name.clone(),
                change: "?".to_owned(),
                url: None,
                error: None,
                stays: Vec::new(),
            });
            (unknown.collect(), Vec::new())
        }
    };
    mark_missing(plan, &mut outcomes, machine);
    mark_refused(plan, &mut outcomes, &refused);
    report(global, plan, &outcomes)?;
    let how = match refused.is_empty() {
        true => "cannot run on this server",
        false => "would be refused, and nothing imported",
    };
    ended(plan, &outcomes, how, "")
}

/// Layers first, then functions, as [`apply`] goes through them.
fn report(global: &Global, plan: &Plan, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let (layers, functions) = outcomes.split_at(plan.layers.len().min(outcomes.len()));
    if global.json {
        let error = |outcome: &Outcome| outcome.error.as_ref().map(|error| format!("{error:#}"));
        let layers = layers.iter().map(|outcome| {
            json!({ "name": outcome.name, "change": outcome.change, "error": error(outcome) })
        });
        let functions = plan
            .functions
            .iter()
            .zip(functions)
            .map(|(function, outcome)| {
                json!({
                    "name": function.name,
                    "runtime": function.runtime,
                    "handler": function.handler,
                    "change": outcome.change,
                    "url": outcome.url,
                    "error": error(outcome),
                    "configuration": function.configuration(&[], None),
                    "event_source_mappings": function.mappings,
                    "event_invoke_config": function.queued,
                    "function_url_config": function.url,
                    "reserved_concurrency": function.concurrency,
                    "version": function.version.is_wanted.then(|| {
                        json!({ "provisioned": function.version.provisioned })
                    }),
                    "stays": outcome.stays,
                    "aliases": function.aliases.iter().map(|alias| {
                        json!({ "name": alias.name, "provisioned": alias.provisioned })
                    }).collect::<Value>(),
                })
            });
        let noted = |one: &LeftOut| json!({ "place": one.place.trim_end_matches([':', ' ']), "what": one.what, "why": one.why });
        return output::print_json(&json!({
            "source": plan.source,
            "layers": layers.collect::<Value>(),
            "functions": functions.collect::<Value>(),
            "left_out": plan.left_out.iter().map(noted).collect::<Value>(),
            "functions_left_out": plan.lost.iter().map(noted).collect::<Value>(),
            "warnings": plan.warnings.iter().map(noted).collect::<Value>(),
        }));
    }
    let layers = plan.layers.iter().zip(layers);
    let mut rows: Vec<Vec<Value>> = layers
        .map(|(layer, outcome)| {
            let (name, size) = (&outcome.name, layer.package.size_shown());
            row(["layer", name, "", "", &size, &outcome.change, "", ""])
        })
        .collect();
    rows.extend(
        plan.functions
            .iter()
            .zip(functions)
            .map(|(function, outcome)| {
                row([
                    "function",
                    &outcome.name,
                    &function.runtime,
                    &function.handler,
                    &function.package.size_shown(),
                    &outcome.change,
                    &function.around(),
                    outcome.url.as_deref().unwrap_or_default(),
                ])
            }),
    );
    let lost = plan.lost.iter();
    rows.extend(lost.map(|one| row(["function", &one.what, "", "", "", "left out", "", ""])));
    let columns = [
        "what", "name", "runtime", "handler", "code", "change", "with", "url",
    ];
    output::print_rows(
        &Rows {
            columns: columns.map(str::to_owned).to_vec(),
            rows,
            ..Rows::default()
        },
        false,
    )?;
    tell(plan);
    for outcome in outcomes {
        for what in &outcome.stays {
            eprintln!("{}: stays: {what}, not in {}", outcome.name, plan.source);
        }
        if let Some(error) = &outcome.error {
            eprintln!("{}: {error:#}", outcome.name);
        }
    }
    Ok(())
}

fn row(cells: [&str; 8]) -> Vec<Value> {
    cells.map(|cell| json!(cell)).to_vec()
}

/// What was left out, on stderr.
fn tell(plan: &Plan) {
    for one in &plan.lost {
        eprintln!("left out: {}", one.shown());
    }
    for one in &plan.left_out {
        eprintln!("not as it was: {}", one.shown());
    }
    for one in &plan.warnings {
        eprintln!("warning: {}", one.shown());
    }
}

fn rename(plan: &mut Plan, name: &str) -> anyhow::Result<()> {
    match plan.functions.as_mut_slice() {
        [one] => {
            name.clone_into(&mut one.name);
            Ok(())
        }
        several => {
            let names: Vec<&str> = several.iter().map(|one| one.name.as_str()).collect();
            bail!(
                "--name is for a source with one function; {} has {} ({})",
                plan.source,
                counted(several.len() as u64, "function"),
                names.join(", ")
            );
        }
    }
}

/// By what the source is.
fn read(path: &Path, asked: &Asked) -> anyhow::Result<Plan> {
    let about = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if about.is_dir() {
        return of_folder(path, asked);
    }
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension {
        Some("yaml" | "yml" | "json") => {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            of_description(path, folder.unwrap_or(Path::new(".")), asked)
        }
        Some("ts" | "js" | "mjs") if is_serverless_program(path) => bail!(program(path)),
        _ => of_code(path, asked),
    }
}

fn of_folder(folder: &Path, asked: &Asked) -> anyhow::Result<Plan> {
    let described = sam::find(folder).or_else(|| serverless::find(folder));
    if let Some(path) = described {
        return of_description(&path, folder, asked);
    }
    let programs = ["serverless.ts", "serverless.js"].map(|name| folder.join(name));
    if let Some(path) = programs.iter().find(|path| path.is_file()) {
        bail!(program(path));
    }
    if let Some(built) = cargo_lambda::find(folder) {
        return cargo_lambda::plan(&built);
    }
    of_code(folder, asked)
}

fn is_serverless_program(path: &Path) -> bool {
    path.file_stem().is_some_and(|name| name == "serverless")
}

fn program(path: &Path) -> String {
    format!(
        "{} is a program: let Serverless print what it makes, `serverless print > serverless.yml`, and import that",
        path.display()
    )
}

fn of_description(path: &Path, folder: &Path, asked: &Asked) -> anyhow::Result<Plan> {
    // Names are made of it.
    let whole = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let source = Source::read(path)?;
    if serverless::is_service(&source) {
        return Ok(serverless::plan(&source, folder, asked));
    }
    if sam::is_template(&source) {
        let mut plan = sam::plan(&source, &whole, asked).map_err(anyhow::Error::msg)?;
        shorten(&mut plan, &whole, folder);
        return Ok(plan);
    }
    bail!(
        "{} is neither a template of AWS SAM or CloudFormation (it has no Resources) nor a serverless.yml (service, provider, functions)",
        path.display()
    )
}

/// Messages name files as the user did.
fn shorten(plan: &mut Plan, whole: &Path, folder: &Path) {
    let (whole, folder) = (whole.display().to_string(), folder.display().to_string());
    for problem in &mut plan.problems {
        *problem = problem.replace(&whole, &folder);
    }
}

/// Code alone: the runtime is seen in it, the name is that of the file or folder.
fn of_code(path: &Path, asked: &Asked) -> anyhow::Result<Plan> {
    if let Some(unpacked) = with_template(path)? {
        let mut plan = of_folder(unpacked.path(), asked)?;
        plan.source = path.display().to_string();
        return Ok(plan);
    }
    let package = Package::open(path)?;
    let guess = guess::guess(&package, None, None, asked.machine).map_err(anyhow::Error::msg)?;
    let runtime = asked.runtime(&guess.runtime).map_err(anyhow::Error::msg)?;
    let whole = fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    let name = match whole.is_dir() {
        true => whole.file_name(),
        false => whole.file_stem(),
    };
    let name = name.unwrap_or_default().to_string_lossy();
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let name = name.replace(|c: char| !is_allowed(c), "-");
    let mut plan = Plan {
        source: path.display().to_string(),
        ..Plan::default()
    };
    plan.functions
        .push(Function::new(name, package, runtime, guess.handler));
    Ok(plan)
}

/// A zip with a template at its top, as AWS's console exports a function, unpacked; `None` for any other.
fn with_template(path: &Path) -> anyhow::Result<Option<tempfile::TempDir>> {
    if !path.is_file() {
        return Ok(None);
    }
    let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Ok(mut archive) = ZipArchive::new(Cursor::new(file)) else {
        return Ok(None);
    };
    let is_template = ["template.yaml", "template.yml", "serverless.yml"]
        .iter()
        .any(|name| archive.by_name(name).is_ok());
    if !is_template {
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    let mut left = UNPACKED_BYTES_MAX;
    for index in 0..archive.len() {
        let file = archive.by_index(index)?;
        let Some(name) = file.enclosed_name() else {
            bail!("{} holds a file that leads out of it", path.display());
        };
        if !file.is_file() {
            continue;
        }
        let target = folder.path().join(name);
        fs::create_dir_all(target.parent().unwrap_or(folder.path()))?;
        let mut content = Vec::new();
        file.take(left + 1).read_to_end(&mut content)?;
        left = left
            .checked_sub(content.len() as u64)
            .with_context(|| format!("{} holds more than code may have", path.display()))?;
        fs::write(target, content)?;
    }
    Ok(Some(folder))
}
