//! Where images come from beside a registry: folders and archives.

use super::*;

#[tokio::test]
async fn archives_are_read_as_their_folders() {
    let house = House::new();
    let one = layer(&[("a", File("1"))]);
    let two = layer(&[("b", File("2"))]);
    let image = made(&[one.clone(), two.clone()], json!({ "Cmd": ["/a"] }));
    let layout = house.dir.path().join("layout");
    image.write(&layout);
    let archive = house.dir.path().join("image.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    builder.append_dir_all(".", &layout).unwrap();
    builder.finish().unwrap();
    let pull = async |uri: String| {
        let source = ImageSource {
            uri,
            by_operator: true,
        };
        house.images.pull(&source, house.stop.subscribe()).await
    };
    let of_archive = pull(format!("oci-archive:{}", archive.display()))
        .await
        .unwrap();
    assert_eq!(of_archive.digest, image.manifest.hex());
    let pinned = format!("oci-layout:{}@{}", layout.display(), image.manifest);
    assert_eq!(pull(pinned).await.unwrap().digest, image.manifest.hex());
    // What `docker save` writes, with a layer that is there twice.
    let saved = house.dir.path().join("saved.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&saved).unwrap());
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": { "Cmd": ["/a"] },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&one), Digest::of(&two), Digest::of(&one)] },
    });
    let list = json!([
        { "Config": "c.json", "RepoTags": ["team/app:1"], "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"] },
        { "Config": "other.json", "RepoTags": null, "Layers": [] },
    ]);
    for (name, bytes) in [
        ("c.json", config.to_string().into_bytes()),
        ("manifest.json", list.to_string().into_bytes()),
        ("1/layer.tar", one),
        ("2/layer.tar", two),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "3/layer.tar", "../1/layer.tar")
        .unwrap();
    builder.finish().unwrap();
    let uri = |name: &str| format!("docker-archive:{}{name}", saved.display());
    let of_saved = pull(uri(":team/app:1")).await.unwrap();
    let root = house.images.dir.join(of_saved.digest).join("root");
    assert_eq!(shown(&root), ["a=1", "b=2"]);
    for (uri, why) in [
        (uri(""), "several images"),
        (uri(":team/app:2"), "it has [team/app:1]"),
        (
            format!("docker-archive:{}", archive.display()),
            "`manifest.json` is missing",
        ),
        (
            format!("oci-archive:{}", saved.display()),
            "`index.json` is missing",
        ),
        (
            format!("oci-archive:{}", layout.display()),
            "cannot be read as a tar",
        ),
        (
            format!("oci-layout:{}:other", layout.display()),
            "no such image",
        ),
        ("oci-layout:/nothing/at/all".to_owned(), "does not exist"),
        ("a b".to_owned(), "is not valid"),
    ] {
        let told = pull(uri).await.unwrap_err().to_string();
        assert!(told.contains(why), "{told}");
    }
    let packed = zstd::encode_all(std::fs::read(&archive).unwrap().as_slice(), 1).unwrap();
    std::fs::write(&archive, packed).unwrap();
    let told = pull(format!("oci-archive:{}", archive.display()))
        .await
        .unwrap_err();
    assert!(told.to_string().contains("packed tar"), "{told}");
}

#[tokio::test]
async fn parts_of_a_folder_do_not_lead_elsewhere() {
    let house = House::new();
    let secret = layer(&[("secret", File("1"))]);
    let image = made(std::slice::from_ref(&secret), json!({}));
    let layout = house.dir.path().join("layout");
    image.write(&layout);
    let elsewhere = house.dir.path().join("elsewhere");
    std::fs::write(&elsewhere, &secret).unwrap();
    let part = layout.join("blobs/sha256").join(Digest::of(&secret).hex());
    std::fs::remove_file(&part).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &part).unwrap();
    let source = ImageSource {
        uri: format!("oci-layout:{}", layout.display()),
        by_operator: true,
    };
    let pulled = house.images.pull(&source, house.stop.subscribe()).await;
    assert!(pulled.unwrap_err().to_string().contains("cannot be read"));
    // Nor does somebody else's say name a folder that the operator did not.
    let source = ImageSource {
        by_operator: false,
        ..source
    };
    let pulled = house.images.pull(&source, house.stop.subscribe()).await;
    let told = pulled.unwrap_err().to_string();
    assert!(told.contains("functions.images"), "{told}");
}
