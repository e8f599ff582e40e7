//! Every path of the API: its methods and who may use them, and the file that answers it.
//!
//! Shape: one table; `*` stands for one segment, `{v}` for one that names a vhost. The first row that fits counts.

use std::pin::Pin;

use super::error::ApiError;
use super::{
    Answer, Context, bindings, connections, definitions, exchanges, health, limits, messages,
    nodes, overview, peers, permissions, policies, queues, quorum, shovels, users, vhosts,
};

/// Who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Anybody, without credentials.
    Nobody,
    /// Any management tag; with a vhost in the path, one who may see what is in it.
    Any,
    /// Any management tag; with a vhost in the path, one who may see that it is there.
    Vhost,
    /// `monitoring`.
    Monitor,
    /// `policymaker`, with a vhost in the path one who may use it.
    Policy,
    /// `administrator`.
    Admin,
}

/// A row of the table.
pub struct Route {
    path: &'static str,
    /// Separated by spaces.
    pub methods: &'static str,
    /// Who may GET.
    pub read: Tag,
    /// Who may do the rest.
    pub write: Tag,
}

const fn row(path: &'static str, methods: &'static str, read: Tag, write: Tag) -> Route {
    Route {
        path,
        methods,
        read,
        write,
    }
}

use Tag::{Admin, Any, Monitor, Nobody, Policy, Vhost};

const TABLE: &[Route] = &[
    row("overview", "GET", Any, Any),
    row("whoami", "GET", Any, Any),
    row("auth", "GET", Nobody, Nobody),
    row("version", "GET", Nobody, Nobody),
    row("cluster-name", "GET PUT", Any, Admin),
    row("extensions", "GET", Any, Any),
    row("feature-flags", "GET", Any, Any),
    row("feature-flags/*/enable", "PUT", Any, Admin),
    row("deprecated-features", "GET", Any, Any),
    row("deprecated-features/used", "GET", Any, Any),
    row("rebalance/queues", "POST", Admin, Admin),
    row("auth/attempts/*", "GET DELETE", Monitor, Admin),
    row("auth/attempts/*/source", "GET DELETE", Monitor, Admin),
    row("login", "POST DELETE", Nobody, Nobody),
    row("reset", "DELETE", Admin, Admin),
    row("reset/*", "DELETE", Admin, Admin),
    row("auth/hash_password/*", "GET", Admin, Admin),
    row("nodes", "GET", Monitor, Monitor),
    row("nodes/*", "GET", Monitor, Monitor),
    row("nodes/*/memory", "GET", Monitor, Monitor),
    row("nodes/*/memory/relative", "GET", Monitor, Monitor),
    row("nodes/*/memory/ets", "GET", Monitor, Monitor),
    row("nodes/*/memory/ets/*", "GET", Monitor, Monitor),
    row("aliveness-test/{v}", "GET", Any, Any),
    row("healthchecks/node", "GET", Any, Any),
    row("healthchecks/node/*", "GET", Any, Any),
    row(
        "health/checks/reached-target-cluster-size",
        "GET",
        Nobody,
        Nobody,
    ),
    row("health/checks/is-in-service", "GET", Nobody, Nobody),
    row(
        "health/checks/ready-to-serve-clients",
        "GET",
        Nobody,
        Nobody,
    ),
    row(
        "health/checks/below-node-connection-limit",
        "GET",
        Nobody,
        Nobody,
    ),
    row("health/checks/*", "GET", Any, Any),
    row("health/checks/*/*", "GET", Any, Any),
    row("health/checks/*/*/*", "GET", Any, Any),
    row("health/checks/*/*/*/*", "GET", Any, Any),
    row("health/checks/*/*/*/*/*", "GET", Any, Any),
    row("vhosts", "GET", Any, Any),
    row("vhosts/*", "GET PUT DELETE", Admin, Admin),
    row("vhosts/*/deletion/protection", "POST DELETE", Admin, Admin),
    row("vhosts/*/start/*", "POST", Admin, Admin),
    row("vhosts/*/permissions", "GET", Admin, Admin),
    row("vhosts/*/topic-permissions", "GET", Admin, Admin),
    row("vhosts/{v}/connections", "GET", Any, Any),
    row("vhosts/{v}/channels", "GET", Any, Any),
    row("users", "GET", Admin, Admin),
    row("users/without-permissions", "GET", Admin, Admin),
    row("users/bulk-delete", "POST", Admin, Admin),
    row("users/*", "GET PUT DELETE", Admin, Admin),
    row("users/*/permissions", "GET", Admin, Admin),
    row("users/*/topic-permissions", "GET", Admin, Admin),
    row("permissions", "GET", Admin, Admin),
    row("permissions/*/*", "GET PUT DELETE", Admin, Admin),
    row("topic-permissions", "GET", Admin, Admin),
    row("topic-permissions/*/*", "GET PUT DELETE", Admin, Admin),
    row("topic-permissions/*/*/*", "DELETE", Admin, Admin),
    row("vhost-limits", "GET", Any, Any),
    row("vhost-limits/{v}", "GET", Vhost, Vhost),
    row("vhost-limits/*/*", "PUT DELETE", Admin, Admin),
    row("user-limits", "GET", Any, Any),
    row("user-limits/*", "GET", Any, Any),
    row("user-limits/*/*", "PUT DELETE", Admin, Admin),
    row("exchanges", "GET", Any, Any),
    row("exchanges/{v}", "GET", Any, Any),
    row("exchanges/{v}/*", "GET PUT DELETE", Any, Any),
    row("exchanges/{v}/*/publish", "POST", Any, Any),
    row("exchanges/{v}/*/bindings/*", "GET", Any, Any),
    row("queues", "GET", Any, Any),
    row("queues/detailed", "GET", Any, Any),
    row("queues/quorum/{v}/*/status", "GET", Any, Any),
    row("queues/quorum/{v}/*/replicas/add", "POST", Admin, Admin),
    row(
        "queues/quorum/{v}/*/replicas/delete",
        "DELETE",
        Admin,
        Admin,
    ),
    row("queues/quorum/replicas/on/*/grow", "POST", Admin, Admin),
    row("queues/quorum/replicas/on/*/shrink", "DELETE", Admin, Admin),
    row("queues/{v}", "GET", Any, Any),
    row("queues/{v}/*", "GET PUT DELETE", Any, Any),
    row("queues/{v}/*/bindings", "GET", Any, Any),
    row("queues/{v}/*/contents", "DELETE", Any, Any),
    row("queues/{v}/*/get", "POST", Any, Any),
    row("queues/{v}/*/actions", "POST", Admin, Admin),
    row("bindings", "GET", Any, Any),
    row("bindings/{v}", "GET", Any, Any),
    row("bindings/{v}/e/*/*/*", "GET POST", Any, Any),
    row("bindings/{v}/e/*/*/*/*", "GET DELETE", Any, Any),
    row("consumers", "GET", Any, Any),
    row("consumers/{v}", "GET", Vhost, Vhost),
    row("connections", "GET", Any, Any),
    row("connections/username/*", "GET DELETE", Any, Any),
    row("connections/*", "GET DELETE", Any, Any),
    row("connections/*/channels", "GET", Any, Any),
    row("connections/*/sessions", "GET", Any, Any),
    row("channels", "GET", Any, Any),
    row("channels/*", "GET", Any, Any),
    row("policies", "GET", Any, Any),
    row("policies/{v}", "GET", Any, Any),
    row("policies/{v}/*", "GET PUT DELETE", Policy, Policy),
    row("operator-policies", "GET", Any, Any),
    row("operator-policies/{v}", "GET", Any, Any),
    row("operator-policies/{v}/*", "GET PUT DELETE", Any, Admin),
    row("parameters", "GET", Policy, Policy),
    row("parameters/*", "GET", Policy, Policy),
    row("parameters/*/{v}", "GET", Policy, Policy),
    row("parameters/*/{v}/*", "GET PUT DELETE", Policy, Policy),
    row("global-parameters", "GET", Policy, Policy),
    row("global-parameters/*", "GET PUT DELETE", Policy, Policy),
    row("definitions", "GET POST", Admin, Admin),
    row("definitions/{v}", "GET POST", Admin, Admin),
    row("all-configuration", "GET POST", Admin, Admin),
    row("all-configuration/{v}", "GET POST", Admin, Admin),
    row("federation-links", "GET", Any, Any),
    row("federation-links/{v}", "GET", Any, Any),
    row("federation-links/state/down", "GET", Any, Any),
    row("shovels", "GET", Monitor, Monitor),
    row("shovels/{v}", "GET", Monitor, Monitor),
    row("shovels/vhost/{v}/*", "GET DELETE", Policy, Policy),
    row("shovels/vhost/{v}/*/restart", "DELETE", Policy, Policy),
    row("stream/connections", "GET", Any, Any),
    row("stream/connections/{v}", "GET", Any, Any),
    row("stream/publishers", "GET", Any, Any),
    row("stream/publishers/{v}", "GET", Any, Any),
    row("stream/publishers/{v}/*", "GET", Any, Any),
    row("stream/consumers", "GET", Any, Any),
    row("stream/consumers/{v}", "GET", Any, Any),
];

/// The row of a path.
pub fn find(path: &[&str]) -> Option<&'static Route> {
    TABLE.iter().find(|route| {
        let pattern = route.path.split('/');
        let fits =
            |(part, segment): (&str, &&str)| part == "*" || part == "{v}" || part == *segment;
        pattern.clone().count() == path.len() && pattern.zip(path).all(fits)
    })
}

impl Route {
    /// What `Allow` says.
    pub fn allow(&self) -> String {
        let methods = self.methods.replace(' ', ", ");
        match methods.contains("GET") {
            true => format!("HEAD, {methods}, OPTIONS"),
            false => format!("{methods}, OPTIONS"),
        }
    }

    fn vhost<'a>(&self, path: &[&'a str]) -> Option<&'a str> {
        let at = self.path.split('/').position(|part| part == "{v}")?;
        path.get(at).copied()
    }

    /// Whether the user may; what is in no vhost is as if it did not exist.
    ///
    /// # Errors
    /// 401, 404.
    pub fn check(&self, context: &Context) -> Result<(), ApiError> {
        let (reads, who) = (context.is("GET"), &context.who);
        let refuse = |reason| Err(ApiError::not_authorised(reason));
        let tag = if reads { self.read } else { self.write };
        match tag {
            Tag::Admin if !who.is_administrator() => return refuse("Not administrator user"),
            Tag::Monitor if !who.is_monitor() => return refuse("Not monitor user"),
            Tag::Policy if !who.is_policymaker() => {
                return refuse("User not authorised to access object");
            }
            _ => {}
        }
        let path = context.path();
        let Some(vhost) = self.vhost(&path) else {
            return Ok(());
        };
        if !context.has_vhost(vhost) {
            return Err(match reads || context.is("DELETE") {
                true => ApiError::not_found(),
                false => ApiError::missing("vhost_not_found"),
            });
        }
        let seen = match (reads, tag) {
            (true, Tag::Vhost) => context.sees_vhost(vhost),
            (true, _) => context.sees(vhost),
            (false, _) => context.may_use(vhost),
        };
        if !seen && !who.is_administrator() {
            return refuse("User not authorised to access virtual host");
        }
        Ok(())
    }
}

/// One type for all; the compiler then checks each by itself.
fn boxed<'a>(
    answer: impl Future<Output = Answer> + Send + 'a,
) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
    Box::pin(answer)
}

/// Answers what the table has.
pub async fn perform(context: &Context) -> Answer {
    let path = context.path();
    match path[..] {
        ["nodes", ..] => boxed(nodes::answer(context)).await,
        ["health" | "healthchecks" | "aliveness-test", ..] => boxed(health::answer(context)).await,
        ["vhosts", _, "permissions" | "topic-permissions"]
        | ["users", _, "permissions" | "topic-permissions"]
        | ["permissions" | "topic-permissions", ..] => boxed(permissions::answer(context)).await,
        ["vhosts", vhost, what @ ("connections" | "channels")] => {
            boxed(peers::listed(context, what, Some(vhost))).await
        }
        ["vhosts", ..] => boxed(vhosts::answer(context)).await,
        ["users", ..] => boxed(users::answer(context)).await,
        ["vhost-limits" | "user-limits", ..] => boxed(limits::answer(context)).await,
        ["exchanges", vhost, exchange, "publish"] => {
            boxed(messages::publish(context, vhost, exchange)).await
        }
        ["exchanges", vhost, exchange, "bindings", end] => {
            bindings::of_exchange(context, vhost, exchange, end)
        }
        ["exchanges", ..] => boxed(exchanges::answer(context)).await,
        ["queues", "quorum", ..] if path.len() > 3 => boxed(quorum::answer(context)).await,
        ["queues", vhost, queue, "get"] => boxed(messages::get(context, vhost, queue)).await,
        ["queues", vhost, queue, "bindings"] => bindings::of_queue(context, vhost, queue),
        ["queues", ..] => boxed(queues::answer(context)).await,
        ["bindings", ..] => boxed(bindings::answer(context)).await,
        ["consumers", ..] | ["connections", ..] | ["channels", ..] => {
            boxed(connections::answer(context)).await
        }
        [
            "policies" | "operator-policies" | "parameters" | "global-parameters",
            ..,
        ] => boxed(policies::answer(context)).await,
        ["shovels", ..] => boxed(shovels::answer(context)).await,
        ["definitions" | "all-configuration", ..] => boxed(definitions::answer(context)).await,
        _ => boxed(overview::answer(context)).await,
    }
}
