//! All commands.

use super::spec::{Spec, Tool};
use super::{
    accounts, checks, definitions, encryption, inspect, lifecycle, limits, listing, observe,
    parameters, plugins, queues, shovels, status, tls, vhosts,
};

/// Every command of every tool.
pub fn all() -> impl Iterator<Item = &'static Spec> {
    let tables = [
        lifecycle::COMMANDS,
        accounts::COMMANDS,
        vhosts::COMMANDS,
        limits::COMMANDS,
        parameters::COMMANDS,
        listing::COMMANDS,
        queues::COMMANDS,
        shovels::COMMANDS,
        definitions::COMMANDS,
        status::COMMANDS,
        inspect::COMMANDS,
        observe::COMMANDS,
        tls::COMMANDS,
        checks::COMMANDS,
        encryption::COMMANDS,
        plugins::COMMANDS,
    ];
    tables.into_iter().flatten()
}

/// A tool's command of this name.
pub fn find(tool: Tool, name: &str) -> Option<&'static Spec> {
    all().find(|spec| spec.is_of(tool) && spec.name == name)
}
