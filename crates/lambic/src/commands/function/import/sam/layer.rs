//! A layer of a template.

use serde_json::Value;

use super::{
    super::{super::package::Package, cloudformation::Resource, known, plan::Layer},
    Reader,
};
use crate::yaml_source::Node;

impl Reader<'_, '_> {
    pub(super) fn layer(&mut self, resource: Resource<'_>) {
        let id = resource.id;
        let properties = resource.node.get("Properties");
        let find = |name: &str| properties.and_then(|all| all.get(name));
        let asset = resource
            .node
            .get("Metadata")
            .and_then(|all| all.get("aws:asset:path"));
        for (key, node) in properties.map_or(&[][..], Node::entries) {
            let name = key.text().unwrap_or_default();
            self.is_mistyped(node, &format!("{id}: {name}"), name, known::LAYER);
        }
        let Some(path) = asset.or(find("ContentUri")).or(find("Content")) else {
            return self.problem(resource.key, &format!("layer {id} has no ContentUri"));
        };
        let Some(path) = self.path(resource, path) else {
            return;
        };
        let Some(package) = self.packed(resource.key, id, Package::open(&path)) else {
            return;
        };
        let mut text = |name: &str| {
            let node = find(name)?.clone();
            self.text(&node, &format!("{id}: {name}"))
        };
        let description = text("Description").unwrap_or_default();
        let license = text("LicenseInfo").unwrap_or_default();
        let runtimes = find("CompatibleRuntimes").and_then(|node| {
            let value = self.json(node, &format!("{id}: CompatibleRuntimes"))?;
            let names = value.as_array()?.iter().filter_map(Value::as_str);
            Some(names.map(str::to_owned).collect())
        });
        let name = self.layer_name(resource);
        self.plan.layers.push(Layer {
            name,
            package,
            description,
            runtimes: runtimes.unwrap_or_default(),
            license,
        });
    }

    pub(super) fn layer_name(&self, resource: Resource<'_>) -> String {
        let named = resource
            .node
            .get("Properties")
            .and_then(|all| all.get("LayerName"));
        let name = named.and_then(|node| self.template.text(node).ok());
        name.unwrap_or_else(|| resource.id.to_owned())
    }
}
