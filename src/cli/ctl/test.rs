//! The definitions of the tools, and how arguments are read.

use super::spec::Tool;
use super::*;

fn parsed(tool: Tool, line: &str) -> Result<ArgMatches, clap::Error> {
    let words = std::iter::once(tool.name()).chain(line.split(' ').filter(|word| !word.is_empty()));
    command(tool).try_get_matches_from(words)
}

#[test]
fn every_tool_is_sound_and_has_commands() {
    for tool in Tool::ALL {
        command(tool).debug_assert();
        assert!(table::all().any(|spec| spec.is_of(tool)), "{}", tool.name());
        assert_eq!(Tool::named(tool.name()), Some(tool));
    }
    assert_eq!(Tool::named("leveret"), None);
}

#[test]
fn no_argument_hides_an_option_of_every_command() {
    let common: Vec<String> = command(Tool::Ctl)
        .get_arguments()
        .map(|arg| arg.get_id().to_string())
        .collect();
    assert!(common.contains(&"vhost".to_owned()));
    for spec in table::all() {
        for arg in spec.command().get_arguments() {
            let id = arg.get_id().to_string();
            assert!(!common.contains(&id), "{}: {id}", spec.name);
        }
    }
}

#[test]
fn no_tool_has_two_commands_of_one_name() {
    for tool in Tool::ALL {
        let mut names: Vec<&str> = table::all()
            .filter(|spec| spec.is_of(tool))
            .map(|spec| spec.name)
            .collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{}", tool.name());
    }
}

#[test]
fn options_may_stand_before_and_after_the_command() {
    for line in [
        "-q -n rabbit@h list_queues -p v -t 5 name messages",
        "list_queues --quiet --node rabbit@h --vhost v name messages --timeout 5",
        "list_queues name messages --node=rabbit@h --vhost=v --timeout=5 -q",
    ] {
        let matches = parsed(Tool::Ctl, line).unwrap();
        let (name, own) = matches.subcommand().unwrap();
        let global = global(own).unwrap();
        assert_eq!(name, "list_queues", "{line}");
        assert_eq!(global.node.as_deref(), Some("rabbit@h"), "{line}");
        assert_eq!(
            (global.vhost.as_str(), global.timeout),
            ("v", Some(5)),
            "{line}"
        );
        assert!(
            global.quiet && global.manner.headers,
            "{line}: headers stay with -q"
        );
        let columns: Vec<&String> = own.get_many("column").unwrap().collect();
        assert_eq!(columns, ["name", "messages"], "{line}");
    }
}

#[test]
fn silence_takes_the_column_names_too() {
    let matches = parsed(Tool::Ctl, "-s list_users").unwrap();
    let global = global(matches.subcommand().unwrap().1).unwrap();
    assert!(global.manner.silent && !global.manner.headers);
}

#[test]
fn a_timeout_is_a_number_or_endless() {
    for (text, want) in [("5", Some(5)), ("0.5", Some(1)), ("infinity", None)] {
        let matches = parsed(Tool::Ctl, &format!("-t {text} list_users")).unwrap();
        assert_eq!(
            global(matches.subcommand().unwrap().1).unwrap().timeout,
            want
        );
    }
    for text in ["x", "-1", "NaN"] {
        let matches = parsed(Tool::Ctl, &format!("--timeout={text} list_users")).unwrap();
        let failure = global(matches.subcommand().unwrap().1).unwrap_err();
        assert_eq!(failure.code, exit::USAGE, "{text}");
    }
}

#[test]
fn what_is_missing_too_much_or_unknown_is_wrong_usage() {
    for line in [
        "add_user",
        "delete_user a b",
        "list_users --bogus",
        "list_user",
        "",
    ] {
        assert!(parsed(Tool::Ctl, line).is_err(), "{line}");
    }
    let error = parsed(Tool::Ctl, "list_user").unwrap_err().to_string();
    assert!(error.contains("list_users"), "{error}");
}

#[test]
fn a_command_is_only_of_the_tools_that_have_it() {
    assert!(parsed(Tool::Diagnostics, "check_running").is_ok());
    assert!(parsed(Tool::Ctl, "check_running").is_err());
    assert!(parsed(Tool::Ctl, "cluster_status").is_ok());
    assert!(parsed(Tool::Upgrade, "drain -t 60").is_ok());
    assert!(parsed(Tool::Plugins, "list -m -E").is_ok());
    assert!(parsed(Tool::Plugins, "enable --offline rabbitmq_management").is_ok());
}

#[test]
fn an_option_may_have_an_underscore() {
    let matches = parsed(
        Tool::Ctl,
        "set_policy p ^q {} --apply_to queues --priority -1",
    )
    .unwrap();
    let own = matches.subcommand().unwrap().1;
    assert_eq!(own.get_one::<String>("apply-to").unwrap(), "queues");
    assert_eq!(own.get_one::<String>("priority").unwrap(), "-1");
}

#[test]
fn who_only_asks_waits_for_a_minute_and_what_takes_its_time_has_it() {
    for (line, want) in [
        ("list_queues", Some(60)),
        ("list_queues -t 5", Some(5)),
        ("list_queues -t infinity", None),
        ("status", Some(60)),
        ("ping", Some(60)),
        ("await_startup", None),
        ("shutdown", None),
        ("delete_vhost v", None),
        ("import_definitions f", None),
    ] {
        let matches = parsed(Tool::Ctl, line).unwrap();
        let (name, own) = matches.subcommand().unwrap();
        assert_eq!(patience(name, &global(own).unwrap()), want, "{line}");
    }
}
