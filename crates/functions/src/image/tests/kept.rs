//! What is kept of images: checked, made again, run, and removed.

use super::*;

#[tokio::test]
async fn parts_are_what_their_digests_say() {
    let house = House::new();
    let image = || {
        made(
            &[layer(&[("a", File("1"))]), layer(&[("b", File("2"))])],
            json!({}),
        )
    };
    let first = Digest::of(&layer(&[("a", File("1"))]));
    let mut missing = image();
    missing.parts.remove(&first);
    let told = house.refusal(&missing).await;
    assert!(
        told.contains(&format!("{}` is missing", first.hex())),
        "{told}"
    );
    let mut other = image();
    other
        .parts
        .insert(first.clone(), layer(&[("a", File("2"))]));
    let told = house.refusal(&other).await;
    assert!(
        told.contains(&format!("{first} has another content")),
        "{told}"
    );
    let mut short = image();
    short.parts.insert(first.clone(), b"x".to_vec());
    let told = house.refusal(&short).await;
    assert!(told.contains(&format!("{first} is shorter")), "{told}");
    let mut manifest = image();
    let changed = manifest.parts[&manifest.manifest].clone();
    let digest = manifest.manifest.clone();
    manifest
        .parts
        .insert(digest, [changed, b" ".to_vec()].concat());
    let told = house.refusal(&manifest).await;
    assert!(told.contains("another content"), "{told}");
    // What is packed is right, and what it unpacks to is not.
    let plain = layer(&[("a", File("1"))]);
    let packed = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let told = house.refusal(&made(&[packed], json!({}))).await;
    assert!(
        told.contains("is not the one that its configuration describes"),
        "{told}"
    );
}

#[tokio::test]
async fn an_image_is_made_again_from_its_parts() {
    let house = House::new();
    let image = made(&[layer(&[("a", File("1")), ("b/c", File("2"))])], json!({}));
    let pulled = house.pull(&image).await.unwrap();
    assert!(
        pulled
            .image
            .resolved
            .ends_with(&format!("@{}", image.manifest))
    );
    let ready = |digest: &str| {
        let image = pulled.image.clone();
        house
            .images
            .ready(digest, Some(&image), &house.stop.subscribe())
    };
    let root = ready(&pulled.digest).unwrap().root;
    let made_at = root.metadata().unwrap().modified().unwrap();
    house.images.verify(&pulled.digest).unwrap();
    assert_eq!(ready(&pulled.digest).unwrap().root, root);
    assert_eq!(root.metadata().unwrap().modified().unwrap(), made_at);
    for damage in [
        &(|| std::fs::write(root.join("a"), "changed").unwrap()) as &dyn Fn(),
        &|| std::fs::remove_file(root.join("b/c")).unwrap(),
        &|| std::fs::remove_dir_all(&root).unwrap(),
        &|| std::fs::write(root.with_file_name(LISTING), "{").unwrap(),
        &|| std::fs::remove_dir_all(root.parent().unwrap()).unwrap(),
    ] {
        damage();
        assert_eq!(ready(&pulled.digest).unwrap().root, root);
        assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_dir(&house.images.dir).unwrap().count(), 2);
    }
    // What looks the same is found by whoever reads it.
    let time = root.join("a").metadata().unwrap().modified().unwrap();
    std::fs::write(root.join("a"), "2").unwrap();
    let file = std::fs::File::options().write(true).open(root.join("a"));
    file.unwrap().set_modified(time).unwrap();
    assert!(matches!(
        house.images.verify(&pulled.digest),
        Err(Error::Damaged { .. })
    ));
    std::fs::remove_dir_all(&root).unwrap();
    // Nor can it be made of what is damaged; then it is brought here again.
    let part = Digest::of(&layer(&[("a", File("1")), ("b/c", File("2"))]));
    let path = house.images.blobs.path(&part);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[600] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(
        ready(&pulled.digest),
        Err(Error::Damaged { .. } | Error::Image { .. })
    ));
    house.images.blobs.remove(&part);
    assert!(matches!(ready(&pulled.digest), Err(Error::Damaged { .. })));
    house.pull(&image).await.unwrap();
    assert!(ready(&pulled.digest).is_ok());
    assert!(ready("../../x").is_err());
}

#[tokio::test]
async fn what_no_function_uses_is_removed() {
    let house = House::new();
    let base = layer(&[("base", File("1"))]);
    let one = made(&[base.clone(), layer(&[("one", File("1"))])], json!({}));
    let two = made(&[base.clone(), layer(&[("two", File("1"))])], json!({}));
    for image in [&one, &two] {
        house.pull(image).await.unwrap();
    }
    let blobs = || {
        std::fs::read_dir(house.dir.path().join("images/blobs"))
            .unwrap()
            .count()
    };
    // They share one.
    assert_eq!(blobs(), 7);
    let kept = BTreeSet::from([two.manifest.hex().to_owned()]);
    house.images.keep_only(&kept).unwrap();
    assert_eq!(blobs(), 4);
    house.images.verify(two.manifest.hex()).unwrap();
    assert!(house.images.verify(one.manifest.hex()).is_err());
    house.images.keep_only(&BTreeSet::new()).unwrap();
    assert_eq!(std::fs::read_dir(&house.images.dir).unwrap().count(), 1);
}

#[tokio::test]
async fn a_server_that_stops_does_not_unpack_on() {
    let house = House::new();
    house.stop.send_replace(true);
    let image = made(&[layer(&[("a", File("1"))])], json!({}));
    assert!(matches!(house.pull(&image).await, Err(Error::Closed)));
    assert_eq!(std::fs::read_dir(&house.images.dir).unwrap().count(), 1);
}

#[tokio::test]
async fn a_function_says_what_its_image_does_not() {
    let house = House::new();
    let image = made(
        &[layer(&[("a", File("1"))])],
        json!({
            "Entrypoint": ["/entry"], "Cmd": ["app.handler"], "WorkingDir": "srv/app",
            "Env": ["A=b=c", "PATH=/x", "odd"], "User": "1000",
        }),
    );
    let pulled = house.pull(&image).await.unwrap();
    let ready = house
        .images
        .ready(&pulled.digest, None, &house.stop.subscribe())
        .unwrap();
    let program = ready.program(&ImageConfig::default());
    assert_eq!(program.entry_point, ["/entry", "app.handler"]);
    assert_eq!(program.working_dir, "/srv/app");
    assert!(program.root.join("srv/app").is_dir());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(program.environment, [pair("A", "b=c"), pair("PATH", "/x")]);
    let own = |entry_point: &[&str], command: &[&str], working_dir: &str| {
        let list = |list: &[&str]| list.iter().map(|part| (*part).to_owned()).collect();
        let program = ready.program(&ImageConfig {
            entry_point: list(entry_point),
            command: list(command),
            working_dir: working_dir.to_owned(),
        });
        (program.entry_point.join(" "), program.working_dir)
    };
    assert_eq!(own(&[], &["other", "x"], "/").0, "/entry other x");
    assert_eq!(
        own(&["/own"], &[], "/tmp"),
        ("/own app.handler".to_owned(), "/tmp".to_owned())
    );
}
