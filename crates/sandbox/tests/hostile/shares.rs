//! Who gets the processors: an event in its first milliseconds more than its memory gives, for which others make room.

use std::time::Duration;

use lambic_sandbox::process::Environment;

use crate::{
    common::{LONG, answer, code, invocation, python_spec, start},
    left::groups,
};

const TIME_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(2);

#[tokio::test]
async fn what_runs_long_has_the_share_of_its_memory_and_the_next_event_more() {
    let code = code(&[(
        "app.py",
        "import time\ndef handler(event, context):\n    time.sleep(event)\n",
    )]);
    let mut environment = start(python_spec(code.path(), "app.handler").await).await;
    let folders = groups(&name(&environment));
    let share = || share(&folders).expect("this machine shares processors by groups");
    let of_its_memory = share();
    for _ in 0..2 {
        // On a busy machine also this one may run long.
        let until = std::time::Instant::now() + TIME_MAX;
        while share() <= of_its_memory {
            assert!(std::time::Instant::now() < until, "it never had more");
            answer(&environment.invoke(invocation(b"0", LONG)).await);
        }
        let event = invocation(b"1", LONG);
        let (execution, ()) = tokio::join!(environment.invoke(event), async {
            while share() != of_its_memory {
                assert!(std::time::Instant::now() < until, "it has more for ever");
                tokio::time::sleep(PAUSE).await;
            }
        });
        answer(&execution);
    }
}

fn name(environment: &Environment) -> String {
    let name = environment.dir().file_name().expect("it has one");
    name.to_string_lossy().into_owned()
}

fn share(folders: &[String]) -> Option<u64> {
    let files = folders
        .iter()
        .flat_map(|folder| ["cpu.shares", "cpu.weight"].map(|file| format!("{folder}/{file}")));
    let mut texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    texts.next()?.trim().parse().ok()
}
