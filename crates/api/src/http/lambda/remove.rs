//! DeleteFunction: a function with all that belongs to it, or one published version.

use axum::{extract::State, http::StatusCode};
use lambic_functions::{FunctionInfo, FunctionVersion, Qualifier};

use super::{
    super::{App, Shared},
    answer::{self, Answer, to_the_end},
    error::AwsError,
    names::Target,
};

pub async fn remove(State(app): Shared, target: Target) -> Answer {
    let function = target.function(&app)?;
    match &target.qualifier {
        None => remove_whole(app, target, &function.info).await?,
        Some(Qualifier::Version(FunctionVersion::Number(number))) => {
            let number = *number;
            target.info(&function)?;
            let functions = &app.services.functions;
            let removed = functions
                .change(&target.name, move |function| {
                    function.remove_version(number)
                })
                .await;
            removed.map_err(|error| target.place.refuse(error))?;
        }
        Some(Qualifier::Version(FunctionVersion::Latest)) => {
            return Err(AwsError::invalid(
                "$LATEST version cannot be deleted without deleting the function.",
            ));
        }
        Some(Qualifier::Alias(_)) => {
            return Err(AwsError::invalid(
                "Deletion of aliases is not currently supported.",
            ));
        }
    }
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

async fn remove_whole(
    app: std::sync::Arc<App>,
    target: Target,
    info: &FunctionInfo,
) -> Result<(), AwsError> {
    let views = views_with(&app, info);
    if !views.is_empty() {
        let noun = if views.len() == 1 { "view" } else { "views" };
        let views = views.join(", ");
        return Err(AwsError::conflict(format!(
            "function {} is called by {noun} {views}; drop what calls it first: DROP MATERIALIZED VIEW {views}",
            target.name
        )));
    }
    // SQL forgets what it exported also if the client goes away.
    to_the_end(async move {
        let services = &app.services;
        let removed = services.functions.remove(&target.name).await;
        removed.map_err(|error| target.place.refuse(error))?;
        services
            .database
            .set_functions(services.functions.scalars());
        Ok(())
    })
    .await
}

/// The views that call what the function exports, in the present code or in the code that they were created with.
fn views_with(app: &App, function: &FunctionInfo) -> Vec<String> {
    let scalars = app.services.functions.scalars();
    let names: Vec<&str> = scalars
        .iter()
        .filter(|scalar| scalar.digest() == function.digest)
        .map(|scalar| scalar.name())
        .collect();
    let views = app.services.database.definitions().into_iter();
    views
        .filter(|view| {
            let mut called = view.functions.iter();
            called
                .any(|(name, digest)| names.contains(&name.as_str()) || *digest == function.digest)
        })
        .map(|view| view.name.to_string())
        .collect()
}
