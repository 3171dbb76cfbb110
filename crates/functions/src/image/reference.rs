//! Where an image comes from, as `ImageUri` says it, and whether this server looks there.
//!
//! | written | means |
//! |---|---|
//! | `registry.example.com/team/app:1` | an image of a registry; without a host, of Docker's |
//! | `oci-layout:/folder:1` | a folder in the OCI's image layout |
//! | `oci-archive:/file.tar:1` | the same as one tar |
//! | `docker-archive:/file.tar:app:1` | what `docker save` writes |
//!
//! Each may end in a digest, `@sha256:…`. Pure, but for [`Places::folder`].

use std::{
    fmt,
    net::IpAddr,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use lambic_sandbox::process::is_outside;

use super::manifest::Digest;
use crate::Error;

const DOCKER: &str = "docker.io";
/// Where that answers.
const DOCKER_API: &str = "registry-1.docker.io";
/// The specification's, of a repository and of a tag.
const REPOSITORY_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    Local(Local),
    Remote(Remote),
}

/// Files of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    pub kind: Kind,
    pub path: PathBuf,
    /// Which of several images.
    pub name: Option<String>,
    pub digest: Option<Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Layout,
    Archive,
    DockerArchive,
}

/// An image of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Host, and port if it has one of its own.
    pub registry: String,
    pub repository: String,
    pub tag: String,
    /// Stands above the tag.
    pub digest: Option<Digest>,
}

const KINDS: [(&str, Kind); 3] = [
    ("oci-layout", Kind::Layout),
    ("oci-archive", Kind::Archive),
    ("docker-archive", Kind::DockerArchive),
];

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Reference, String> {
        let (whole, digest) = match text.split_once('@') {
            Some((whole, digest)) => (whole, Some(digest.parse()?)),
            None => (text, None),
        };
        if whole.is_empty() || whole.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err("it is not the name of an image".to_owned());
        }
        for (scheme, kind) in KINDS {
            if let Some(place) = whole
                .strip_prefix(scheme)
                .and_then(|rest| rest.strip_prefix(':'))
            {
                return local(kind, place, digest).map(Reference::Local);
            }
        }
        remote(whole, digest).map(Reference::Remote)
    }
}

fn local(kind: Kind, place: &str, digest: Option<Digest>) -> Result<Local, String> {
    let (path, name) = match place.split_once(':') {
        Some((path, name)) => (path, Some(name.to_owned())),
        None => (place, None),
    };
    if path.is_empty() || name.as_deref() == Some("") {
        return Err("it names no path".to_owned());
    }
    Ok(Local {
        kind,
        path: PathBuf::from(path),
        name,
        digest,
    })
}

fn remote(whole: &str, digest: Option<Digest>) -> Result<Remote, String> {
    let (first, rest) = whole.split_once('/').unwrap_or(("", whole));
    let (registry, name) = match is_host(first) {
        true => (first, rest),
        false => (DOCKER, whole),
    };
    let (repository, tag) = match name.split_once(':') {
        Some((repository, tag)) => (repository, tag),
        None => (name, "latest"),
    };
    let repository = match registry == DOCKER && !repository.contains('/') {
        true => format!("library/{repository}"),
        false => repository.to_owned(),
    };
    if !is_registry(registry) {
        return Err(format!("`{registry}` is not the name of a registry"));
    }
    if !is_repository(&repository) {
        return Err(format!("`{repository}` is not the name of a repository"));
    }
    if !is_tag(tag) {
        return Err(format!("`{tag}` is not a tag"));
    }
    Ok(Remote {
        registry: registry.to_ascii_lowercase(),
        repository,
        tag: tag.to_owned(),
        digest,
    })
}

/// Whether what stands before the first `/` is a registry, and not the first part of a repository on Docker Hub. As every
/// client of registries tells them apart.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = host_and_port(registry);
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let is_name = |host: &str| {
        let is_label = |label: &str| {
            let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            !label.is_empty() && label.len() < 64 && label.bytes().all(inner)
        };
        host.len() < 254 && host.split('.').all(is_label)
    };
    is_port && (is_name(host) || address(host).is_some())
}

/// Of `[::1]:5000` and `host:5000`.
fn host_and_port(registry: &str) -> (&str, Option<&str>) {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    }
}

fn address(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']'));
    match inner {
        Some(v6) => v6.parse().ok().filter(IpAddr::is_ipv6),
        None => host.parse().ok().filter(IpAddr::is_ipv4),
    }
}

fn is_repository(repository: &str) -> bool {
    let is_part = |part: &str| {
        let is_plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        bytes.first().is_some_and(is_plain)
            && bytes.last().is_some_and(is_plain)
            && bytes.iter().all(|b| is_plain(b) || b"._-".contains(b))
            && !part.contains("..")
    };
    repository.len() <= REPOSITORY_BYTES_MAX && repository.split('/').all(is_part)
}

fn is_tag(tag: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=TAG_BYTES_MAX).contains(&tag.len())
        && tag.bytes().all(is_inner)
        && !tag.starts_with(['.', '-'])
}

impl Remote {
    /// Where its API begins.
    pub fn base(&self) -> String {
        let scheme = match self.is_loopback() {
            true => "http",
            false => "https",
        };
        let host = match self.registry.as_str() {
            DOCKER => DOCKER_API,
            host => host,
        };
        format!("{scheme}://{host}/v2/{}", self.repository)
    }

    /// On this very machine, where nobody listens in: it is asked without TLS.
    pub fn is_loopback(&self) -> bool {
        let (host, _) = host_and_port(&self.registry);
        host == "localhost" || address(host).is_some_and(|address| address.is_loopback())
    }

    /// What is asked for: a digest or a tag.
    pub fn wanted(&self) -> String {
        match &self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag.clone(),
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl Reference {
    /// The same image, for ever.
    pub fn resolved(&self, digest: &Digest) -> String {
        match self {
            Reference::Local(local) => format!("{}@{digest}", Local::place(local)),
            Reference::Remote(remote) => format!("{}@{digest}", remote.name()),
        }
    }
}

impl Local {
    fn place(&self) -> String {
        let scheme = KINDS.iter().find(|(_, kind)| *kind == self.kind);
        let scheme = scheme.map_or("", |(scheme, _)| scheme);
        format!("{scheme}:{}", self.path.display())
    }
}

/// The same reference with a relative path of it seen from `folder`.
pub fn seen_from(uri: &str, folder: &Path) -> String {
    for (scheme, _) in KINDS {
        let rest = uri
            .strip_prefix(scheme)
            .and_then(|rest| rest.strip_prefix(':'));
        if let Some(path) = rest
            && !path.starts_with('/')
        {
            return format!("{scheme}:{}", folder.join(path).display());
        }
    }
    uri.to_owned()
}

/// The file or folder that a reference means, if it is one of this machine.
pub fn local_path(uri: &str) -> Option<PathBuf> {
    match uri.parse() {
        Ok(Reference::Local(local)) => Some(local.path),
        _ => None,
    }
}

/// How far a registry may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Where the operator said that images come from.
    Named,
    /// To public addresses only.
    Public,
}

/// Where images may come from: the setting `functions.images`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places(Vec<Place>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// With all that is in it.
    Folder(PathBuf),
    /// All registries that have public addresses.
    AnyRegistry,
    /// A registry, or the repositories below a path of it.
    Registry {
        registry: String,
        below: Option<String>,
    },
}

impl Places {
    pub fn new(places: &[String]) -> Result<Places, Error> {
        let places = places.iter().map(|place| {
            place.parse().map_err(|reason: String| Error::BadValue {
                reason: format!("`functions.images` has `{place}`: {reason}"),
            })
        });
        places.collect::<Result<_, _>>().map(Places)
    }

    /// The real path of a file or folder that may be looked at.
    pub fn folder(&self, path: &Path) -> Result<PathBuf, String> {
        let refused = || {
            format!(
                "images are read from the folders that `functions.images` of the settings names, and `{}` is in none of them",
                path.display()
            )
        };
        let folders = || {
            self.0.iter().filter_map(|place| match place {
                Place::Folder(folder) => Some(folder),
                Place::AnyRegistry | Place::Registry { .. } => None,
            })
        };
        let is_plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        // First by its name: about paths elsewhere nothing is told, not even whether they exist.
        if !path.is_absolute() || !is_plain || !folders().any(|folder| path.starts_with(folder)) {
            return Err(refused());
        }
        let real = path
            .canonicalize()
            .map_err(|error| format!("cannot look at `{}`: {error}", path.display()))?;
        let mut real_folders = folders().filter_map(|folder| folder.canonicalize().ok());
        match real_folders.any(|folder| real.starts_with(folder)) {
            true => Ok(real),
            false => Err(refused()),
        }
    }

    pub fn registry(&self, remote: &Remote) -> Result<Reach, String> {
        let is_named = self.0.iter().any(|place| match place {
            Place::Registry { registry, below } => {
                *registry == remote.registry
                    && below.as_ref().is_none_or(|below| {
                        let rest = remote.repository.strip_prefix(below.as_str());
                        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                    })
            }
            Place::Folder(_) | Place::AnyRegistry => false,
        });
        if is_named {
            return Ok(Reach::Named);
        }
        let refused = |why: &str| {
            Err(format!(
                "images come from where `functions.images` of the settings says, and `{}` {why}; add it there",
                remote.registry
            ))
        };
        if !self.0.contains(&Place::AnyRegistry) {
            return refused("is not named there");
        }
        let (host, _) = host_and_port(&remote.registry);
        if remote.is_loopback() || address(host).is_some_and(|address| !is_outside(address)) {
            return refused("is not public");
        }
        Ok(Reach::Public)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        if text == "*" {
            return Ok(Place::AnyRegistry);
        }
        if text.starts_with('/') {
            return Ok(Place::Folder(PathBuf::from(text)));
        }
        let (registry, below) = match text.trim_end_matches('/').split_once('/') {
            Some((registry, below)) => (registry, Some(below.to_owned())),
            None => (text.trim_end_matches('/'), None),
        };
        let is_registry = is_host(registry) && is_registry(registry);
        if !is_registry || below.as_deref().is_some_and(|below| !is_repository(below)) {
            return Err(
                "it is neither `*`, the absolute path of a folder, nor a registry such as `localhost:5000` or `ghcr.io/team`"
                    .to_owned(),
            );
        }
        Ok(Place::Registry {
            registry: registry.to_ascii_lowercase(),
            below,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Local(local) => f.write_str(&local.place()),
            Reference::Remote(remote) => write!(f, "{}:{}", remote.name(), remote.tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn remote_of(text: &str) -> Remote {
        match text.parse().unwrap() {
            Reference::Remote(remote) => remote,
            Reference::Local(local) => panic!("{local:?}"),
        }
    }

    #[test]
    fn registries_repositories_and_tags_are_told_apart() {
        for (text, registry, repository, wanted) in [
            ("app", "docker.io", "library/app", "latest"),
            ("team/app:1.2", "docker.io", "team/app", "1.2"),
            ("localhost:5000/app", "localhost:5000", "app", "latest"),
            ("localhost/app:1", "localhost", "app", "1"),
            ("[::1]:5000/a/b/c:x", "[::1]:5000", "a/b/c", "x"),
            (
                "123456789012.dkr.ecr.us-east-1.amazonaws.com/my-app:v_1",
                "123456789012.dkr.ecr.us-east-1.amazonaws.com",
                "my-app",
                "v_1",
            ),
        ] {
            let remote = remote_of(text);
            assert_eq!(remote.registry, registry, "{text}");
            assert_eq!(remote.repository, repository, "{text}");
            assert_eq!(remote.wanted(), wanted, "{text}");
        }
        let pinned = remote_of(&format!("localhost:5000/app:1@{DIGEST}"));
        assert_eq!(pinned.wanted(), DIGEST);
        let digest = DIGEST.parse().unwrap();
        assert_eq!(
            Reference::Remote(pinned).resolved(&digest),
            format!("localhost:5000/app@{DIGEST}")
        );
        for (text, base) in [
            ("app", "https://registry-1.docker.io/v2/library/app"),
            ("127.0.0.1:5000/app", "http://127.0.0.1:5000/v2/app"),
            ("[::1]:5000/app", "http://[::1]:5000/v2/app"),
            ("10.0.0.1:5000/app", "https://10.0.0.1:5000/v2/app"),
            (
                "localhost.example.com/app",
                "https://localhost.example.com/v2/app",
            ),
        ] {
            assert_eq!(remote_of(text).base(), base);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            " ",
            "App",
            "a/../b",
            "localhost:5000/",
            "localhost:x/app",
            "localhost:0/app",
            "host.example/app:",
            "host.example/app:a b",
            "host.example/app?x=1",
            "user@host.example/app",
            "app@sha256:12",
            "app@md5:0123",
            "https://host.example/app",
            "-a.example/../../v2/x",
            "oci-layout:",
            "oci-layout:/x:",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn files_are_named_by_their_kind() {
        for (text, kind, path, name) in [
            ("oci-layout:/images/app", Kind::Layout, "/images/app", None),
            ("oci-archive:/a.tar:1", Kind::Archive, "/a.tar", Some("1")),
            (
                "docker-archive:a.tar:team/app:1",
                Kind::DockerArchive,
                "a.tar",
                Some("team/app:1"),
            ),
        ] {
            let expected = Local {
                kind,
                path: path.into(),
                name: name.map(str::to_owned),
                digest: None,
            };
            assert_eq!(text.parse(), Ok(Reference::Local(expected)));
        }
        assert_eq!(
            seen_from("oci-layout:images/app:1", Path::new("/project")),
            "oci-layout:/project/images/app:1"
        );
        for same in ["oci-layout:/images/app", "localhost:5000/app"] {
            assert_eq!(seen_from(same, Path::new("/project")), same);
        }
        assert_eq!(local_path("oci-archive:/a.tar:1"), Some("/a.tar".into()));
        assert_eq!(local_path("localhost:5000/app"), None);
    }

    #[test]
    fn images_come_from_where_the_operator_says() {
        let places = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|place| (*place).to_owned()).collect();
            Places::new(&list)
        };
        let reach = |list: &[&str], text: &str| places(list).unwrap().registry(&remote_of(text));
        for (list, text, expected) in [
            (&[][..], "app", None),
            (&["*"], "app", Some(Reach::Public)),
            (&["*"], "1.1.1.1/app", Some(Reach::Public)),
            (&["*"], "localhost:5000/app", None),
            (&["*"], "127.0.0.1/app", None),
            (&["*"], "10.0.0.1/app", None),
            (&["*"], "[fd00::1]/app", None),
            (&["*"], "169.254.169.254/app", None),
            (
                &["localhost:5000"],
                "localhost:5000/app",
                Some(Reach::Named),
            ),
            (&["localhost:5000"], "localhost:5001/app", None),
            (&["localhost:5000"], "app", None),
            (&["ghcr.io/team"], "ghcr.io/team/app", Some(Reach::Named)),
            (&["ghcr.io/team"], "GHCR.io/team/app", Some(Reach::Named)),
            (&["ghcr.io/team/"], "ghcr.io/team", Some(Reach::Named)),
            (&["ghcr.io/team"], "ghcr.io/teams/app", None),
            (
                &["*", "10.0.0.1:5000"],
                "10.0.0.1:5000/app",
                Some(Reach::Named),
            ),
        ] {
            assert_eq!(reach(list, text).ok(), expected, "{list:?} {text}");
        }
        for wrong in ["", "images", "./images", "https://ghcr.io", "ghcr.io/T"] {
            assert!(places(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_is_told_of_files_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let inside = dir.join("inside");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("image.tar"), "").unwrap();
        std::fs::write(dir.join("secret"), "").unwrap();
        std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
        let places = Places::new(&[inside.display().to_string()]).unwrap();
        assert_eq!(
            places.folder(&inside.join("image.tar")),
            Ok(inside.join("image.tar"))
        );
        let refusal = |path: PathBuf| {
            let told = places.folder(&path).unwrap_err();
            told.replace(&path.display().to_string(), "PATH")
        };
        let of_nothing = refusal(dir.join("nothing"));
        assert!(of_nothing.contains("functions.images"), "{of_nothing}");
        for path in [
            dir.join("secret"),
            inside.join("../secret"),
            inside.join("link"),
            PathBuf::from("secret"),
        ] {
            assert_eq!(refusal(path), of_nothing);
        }
        assert!(refusal(inside.join("nothing")).contains("cannot look at"));
    }
}
