//! `DROP STREAM` through deaths of the store in any of its writes.

use super::*;

fn files_of(data: &Path) -> Vec<PathBuf> {
    let all = at_rest(&data.join("dataset")).into_iter();
    let paths = all.map(|(path, _)| path);
    paths
        .filter(|path| {
            path.components()
                .any(|part| part.as_os_str().to_string_lossy().ends_with("-s"))
        })
        .collect()
}

/// What it has not deleted goes at the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_that_is_killed_leaves_nothing() {
    let mut cut_short = 0;
    for writes_left in 0..8 {
        let (_folder, data) = new_folder();
        let server = Server::declared(&data, &["CREATE STREAM s (a int)"]).await;
        for value in 0..3 {
            let insert = format!("INSERT INTO s VALUES ({value})");
            server.done(&insert).await.expect("inserted");
            server.engine.seal_all().await.expect("sealed");
        }
        assert!(files_of(&data).len() >= 4, "files and manifests");
        server.killed().await;
        let Ok(server) = Server::open(&data, writes_left, false).await else {
            continue;
        };
        let dropped = tokio::select! {
            dropped = server.done("DROP STREAM s") => dropped,
            () = server.dead() => Err("killed".to_owned()),
        };
        server.killed().await;
        let left = files_of(&data).len();
        let server = Server::open(&data, i64::MAX, true).await.expect("it opens");
        let there = "SELECT records FROM lambic_streams WHERE name = 's'";
        let there = server.rows(there).await.expect("it is read");
        let files = files_of(&data);
        assert!(
            there.is_empty() && files.is_empty(),
            "{writes_left} writes, {dropped:?}: {there:?} {files:?}"
        );
        cut_short += usize::from(dropped.is_err() && left > 0);
        server.engine.close().await;
    }
    assert!(cut_short > 0, "some were cut short");
}
