//! Provisioned concurrency: environments that are there before anybody asks.

mod common;

use std::{sync::LazyLock, time::Duration};

use common::House;
use lambic_functions::{Event, FunctionVersion, Provisioned, ProvisionedStatus, Qualifier};
use lambic_model::FunctionName;

const TELLS: &str = "import os\n\
    def handler(event, context):\n\
    \x20   return [os.environ['AWS_LAMBDA_INITIALIZATION_TYPE'], context.function_version]\n";

static F: LazyLock<FunctionName> = LazyLock::new(|| FunctionName::new("f").unwrap());

fn live() -> Qualifier {
    Qualifier::Alias("live".to_owned())
}

fn status(house: &House) -> ProvisionedStatus {
    let function = house.functions.function("f").unwrap();
    house.functions.provisioned(&function, &live())
}

fn has(environments: usize) -> impl Fn(&House) -> bool {
    move |house| {
        let status = status(house);
        let alive = house.functions.counts().environments;
        (status.allocated, status.available, alive)
            == (environments, environments, environments as u64)
    }
}

async fn set(house: &House, environments: Option<usize>) {
    let changed = house.functions.change(&F, move |function| {
        match environments {
            Some(environments) => {
                let provisioned = Provisioned {
                    environments,
                    changed_at_us: 0,
                };
                function.provisioned.insert(live(), provisioned);
            }
            None => {
                function.provisioned.remove(&live());
            }
        }
        Ok(())
    });
    changed.await.unwrap();
}

async fn told(house: &House) -> (serde_json::Value, bool) {
    let invoked = house
        .functions
        .invoke_at(&F, Some(live()), Event::default());
    let result = invoked.await.unwrap();
    let answer = serde_json::from_slice(result.payload()).unwrap();
    (answer, result.cold)
}

/// With this variable, stopped between two events or not.
fn processes(marker: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(marker)
    })
    .map(|process| process.file_name().into_string().unwrap())
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_are_kept_for_an_alias_wherever_it_points() {
    let options = |options: &mut lambic_functions::Options| {
        options.idle = Duration::from_millis(50);
        options.spares = 0;
    };
    let house = House::open_with(options).await;
    let marker = uuid::Uuid::new_v4().to_string();
    for description in ["one", "two"] {
        let mut deployment = house.python("f", TELLS).await;
        deployment.trial = false;
        deployment.settings.description = description.to_owned();
        deployment.environment = [
            ("MARKER".to_owned(), marker.clone()),
            ("WHICH".to_owned(), description.to_owned()),
        ]
        .into();
        house.functions.deploy(deployment).await.unwrap();
        let published = house
            .functions
            .change(&F, |function| function.publish(None));
        published.await.unwrap();
    }
    let made = house.functions.change(&F, |function| {
        let version = FunctionVersion::Number(1);
        let made = function.create_alias("live", version, String::new(), None);
        made.map(drop)
    });
    made.await.unwrap();
    assert_eq!(house.functions.counts().environments, 0);
    set(&house, Some(2)).await;
    house.wait_until("two are there", has(2)).await;
    let provisioned = |version: &str| serde_json::json!(["provisioned-concurrency", version]);
    assert_eq!(told(&house).await, (provisioned("1"), false));

    // They stay although nobody uses them, and one that ends is replaced.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(has(2)(&house));
    let before = processes(&marker);
    assert_eq!(before.len(), 2, "{before:?}");
    let killed = std::process::Command::new("kill")
        .args(["-9", &before[0]])
        .status();
    assert!(killed.unwrap().success());
    let replaced = |house: &House| {
        let now = processes(&marker);
        has(2)(house) && now.len() == 2 && !now.contains(&before[0])
    };
    house.wait_until("it is replaced", replaced).await;

    let moved = house.functions.change(&F, |function| {
        let version = Some(FunctionVersion::Number(2));
        let moved = function.update_alias("live", version, None, None, None);
        moved.map(drop)
    });
    moved.await.unwrap();
    house.wait_until("they follow", has(2)).await;
    assert_eq!(told(&house).await, (provisioned("2"), false));

    let house = house.restart_with(options).await;
    house.wait_until("two are there again", has(2)).await;
    set(&house, Some(1)).await;
    house.wait_until("one is enough", has(1)).await;
    set(&house, None).await;
    house
        .wait_until("none is kept", |house| {
            house.functions.counts().environments == 0
        })
        .await;
    assert!(processes(&marker).is_empty());
    let (answer, cold) = told(&house).await;
    assert_eq!((answer[0].as_str(), cold), (Some("on-demand"), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_them_from_starting_is_told() {
    let house = House::open_with(|options| options.memory_mb_max = 256).await;
    let mut deployment = house.python("f", "import nothing_such\n").await;
    deployment.trial = false;
    house.functions.deploy(deployment).await.unwrap();
    let published = house.functions.change(&F, |function| {
        function.publish(None)?;
        let version = FunctionVersion::Number(1);
        let made = function.create_alias("live", version, String::new(), None);
        made.map(drop)
    });
    published.await.unwrap();
    set(&house, Some(1)).await;
    let is_told = |house: &House| {
        let trouble = status(house).trouble.unwrap_or_default();
        trouble.contains("Runtime.ImportModuleError")
    };
    house.wait_until("its code is bad", is_told).await;
    assert_eq!(status(&house).available, 0);

    // More than there is memory for: those that fit are there.
    house.deploy_python("f", TELLS).await;
    let moved = house.functions.change(&F, |function| {
        function.publish(None)?;
        let version = Some(FunctionVersion::Number(2));
        let moved = function.update_alias("live", version, None, None, None);
        moved.map(drop)
    });
    moved.await.unwrap();
    set(&house, Some(3)).await;
    let are_told = |house: &House| {
        let status = status(house);
        let trouble = status.trouble.unwrap_or_default();
        status.available == 2 && trouble.contains("memory_mb_max")
    };
    house.wait_until("there is memory for two", are_told).await;
}
