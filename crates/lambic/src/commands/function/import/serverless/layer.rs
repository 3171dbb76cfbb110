//! A layer of a service.

use super::{
    super::{super::package::Package, plan::Layer},
    Reader,
};
use crate::yaml_source::Node;

impl Reader<'_, '_> {
    pub(super) fn layer(&mut self, id: &str, node: &Node) {
        let artifact = node.get("package").and_then(|all| all.get("artifact"));
        let Some(path) = node.get("path").or(artifact) else {
            return self.problem(node, &format!("layer {id} has no path"));
        };
        let Some(path) = self.text(path, &format!("{id}: path")) else {
            return;
        };
        let package = match Package::open(&self.folder.join(path)) {
            Ok(package) => package,
            Err(error) => return self.problem(node, &format!("{id}: {error:#}")),
        };
        let mut text = |name: &str| {
            let value = node.get(name)?;
            self.text(value, &format!("{id}: {name}"))
        };
        let (name, description, license) = (text("name"), text("description"), text("licenseInfo"));
        let runtimes = node.get("compatibleRuntimes").map_or(&[][..], Node::items);
        let runtimes = runtimes.iter().filter_map(Node::text).map(str::to_owned);
        self.plan.layers.push(Layer {
            name: name.unwrap_or_else(|| id.to_owned()),
            package,
            description: description.unwrap_or_default(),
            runtimes: runtimes.collect(),
            license: license.unwrap_or_default(),
        });
    }

    pub(super) fn layer_of(&self, reference: &str) -> Option<String> {
        let stem = reference.strip_suffix("LambdaLayer")?;
        let layers = self.source.root.get("layers");
        let mut names = layers.map_or(&[][..], Node::entries).iter();
        let found = names.find(|(key, _)| {
            let name: String = key
                .text()
                .unwrap_or_default()
                .replace('-', "Dash")
                .replace('_', "Underscore");
            name.eq_ignore_ascii_case(stem)
        })?;
        let named = found.1.get("name").and_then(Node::text);
        Some(named.or(found.0.text())?.to_owned())
    }
}
