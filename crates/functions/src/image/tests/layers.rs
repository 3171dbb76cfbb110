//! What layers unpack to, one over the other.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

#[tokio::test]
async fn later_layers_hide_what_earlier_ones_have() {
    let house = House::new();
    let root = house
        .root(&[
            layer(&[
                ("./", Folder),
                ("usr/", Folder),
                ("usr/bin/tool", File("1")),
                ("usr/gone", File("1")),
                ("lib", Symlink("usr/lib")),
                ("usr/lib/so", File("1")),
                ("opaque/one", File("1")),
                ("opaque/inner/two", File("1")),
                ("folder/file", File("1")),
                ("file", File("1")),
                ("alone/x", File("1")),
            ]),
            layer(&[
                ("/usr/.wh.gone", File("")),
                // What the layer itself has is not hidden, in whichever order.
                ("opaque/inner/three", File("2")),
                ("opaque/.wh..wh..opq", File("")),
                ("opaque/four", File("2")),
                ("usr/bin/.wh.tool", File("")),
                ("usr/bin/tool", File("2")),
                ("lib/more", File("2")),
                ("folder", File("2")),
                ("file", Folder),
                ("file/x", File("2")),
                (".wh.nothing", File("")),
                (".wh.alone", File("")),
                ("none/.wh.x", File("")),
                (".wh..wh.plnk", Folder),
                ("again", Hardlink("usr/lib/so")),
                ("last", Hardlink("lib/more")),
            ]),
            layer(&[("usr/lib/so", File("3"))]),
        ])
        .await;
    assert_eq!(
        shown(&root),
        [
            "again=1",
            "file/x=2",
            "folder=2",
            "last=2",
            "lib -> usr/lib",
            "opaque/four=2",
            "opaque/inner/three=2",
            "usr/bin/tool=2",
            "usr/lib/more=2",
            "usr/lib/so=3",
        ]
    );
    assert!(!root.join("none").exists() && !root.join("alone").exists());
}

#[tokio::test]
async fn only_what_a_program_needs_is_taken() {
    let house = House::new();
    let root = house
        .root(&[
            layer(&[
                ("su", Mode(0o4755)),
                ("data", Mode(0o600)),
                ("disk", File("x")),
                ("etc/hosts", File("")),
            ]),
            layer(&[("disk", Device), ("dev/sda", Device)]),
        ])
        .await;
    let mode = |name: &str| root.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode("su"), mode("data"), mode("etc")),
        (0o755, 0o644, 0o755)
    );
    assert_eq!(root.join("su").metadata().unwrap().mtime(), 1_000_000_000);
    assert!(!root.join("disk").exists() && !root.join("dev/sda").exists());
    let hosts = std::fs::read_to_string(root.join("etc/hosts")).unwrap();
    assert!(hosts.contains("127.0.0.1 localhost"));
    assert!(root.join("etc/resolv.conf").is_file());
}

#[tokio::test]
async fn nothing_is_written_outside() {
    let house = House::new();
    let outside = house.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let outside_text = outside.display().to_string();
    for (entries, why) in [
        (vec![("../../outside/x", File("x"))], "leads out of it"),
        (vec![("a/../../../outside/x", File("x"))], "leads out of it"),
        (vec![("x", Hardlink("../../outside/x"))], "leads out of it"),
        (vec![("x", Hardlink("/etc/passwd"))], "is no file of it"),
        (vec![("a/.wh...", File(""))], "hides nothing"),
        (vec![("a/.wh..", File(""))], "hides nothing"),
        (vec![("x", Symlink(""))], "leads nowhere"),
    ] {
        let told = house.refusal(&made(&[layer(&entries)], json!({}))).await;
        assert!(told.contains(why), "{told}");
    }
    // Links lead wherever they like within the image, and only there.
    let root = house
        .root(&[layer(&[
            ("link", Symlink(&outside_text)),
            ("link/x", File("x")),
            ("up", Symlink("../../../../../../outside")),
            ("up/y", File("y")),
            ("up/.wh..wh..opq", File("")),
        ])])
        .await;
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(
        root.join(outside_text.trim_start_matches('/'))
            .join("x")
            .exists()
    );
    assert!(root.join("outside/y").exists());
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let house = House::new();
    let text = "x".repeat(600 << 10);
    let plain = layer(&[("zeros", File(&text))]);
    let bomb = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let bomb = (bomb, plain);
    let mut image = made_of(&[bomb.clone(), bomb], json!({}));
    // By what it is unpacked, and by what it is packed.
    let told = house.refusal(&image).await;
    assert!(told.contains("that are left"), "{told}");
    let large = "x".repeat(2 << 20);
    let told = house
        .refusal(&made(&[layer(&[("x", File(&large))])], json!({})))
        .await;
    assert!(told.contains("over the limit of 1048576"), "{told}");
    let names: Vec<String> = (0..300).map(|number| format!("f{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), Folder)).collect();
    let told = house.refusal(&made(&[layer(&many)], json!({}))).await;
    assert!(told.contains("more than 200 files"), "{told}");
    // Said to be larger than it is unpacked.
    let mut header = tar::Header::new_gnu();
    header.set_path("x").unwrap();
    header.set_size(11 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    image = made(&[header.as_bytes().to_vec()], json!({}));
    let told = house.refusal(&image).await;
    assert!(told.contains("that are left"), "{told}");
}
