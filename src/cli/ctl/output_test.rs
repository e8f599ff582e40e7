//! The formats, byte by byte: what RabbitMQ's tools wrote for the same rows.

use serde_json::json;

use super::output::*;

fn rows() -> Output {
    Output::Rows(Rows::of(
        &["user", "tags"],
        &[
            json!({"user": "u1", "tags": ["management", "policymaker"]}),
            json!({"user": "u\"2", "tags": []}),
        ],
    ))
}

fn manner(format: &str) -> Manner {
    Manner {
        format: Format::named(format),
        headers: true,
        silent: false,
    }
}

#[test]
fn a_list_in_every_format() {
    for (format, want) in [
        ("", "user\ttags\nu1\t[management, policymaker]\nu\"2\t[]\n"),
        (
            "table",
            "user\ttags\nu1\t[management, policymaker]\nu\"2\t[]\n",
        ),
        (
            "csv",
            "\"user\",\"tags\"\n\"u1\",\"[management, policymaker]\"\n\"u\"\"2\",\"[]\"\n",
        ),
        (
            "json",
            "[\n{\"user\":\"u1\",\"tags\":[\"management\",\"policymaker\"]}\n,{\"user\":\"u\\\"2\",\"tags\":[]}\n]\n",
        ),
        (
            "json_stream",
            "{\"user\":\"u1\",\"tags\":[\"management\",\"policymaker\"]}\n\n{\"user\":\"u\\\"2\",\"tags\":[]}\n\n",
        ),
        (
            "pretty_table",
            "┌──────┬───────────────────────────┐\n\
             │ user │ tags                      │\n\
             ├──────┼───────────────────────────┤\n\
             │ u1   │ [management, policymaker] │\n\
             ├──────┼───────────────────────────┤\n\
             │ u\"2  │ []                        │\n\
             └──────┴───────────────────────────┘\n",
        ),
    ] {
        assert_eq!(shown(&rows(), manner(format)), want, "{format}");
    }
}

#[test]
fn column_names_are_left_out_when_asked_and_where_there_are_no_rows() {
    let bare = Manner {
        headers: false,
        ..manner("")
    };
    assert_eq!(
        shown(&rows(), bare),
        "u1\t[management, policymaker]\nu\"2\t[]\n"
    );
    let none = Output::Rows(Rows::of(&["name"], &[]));
    for (format, want) in [
        ("", ""),
        ("csv", ""),
        ("pretty_table", ""),
        ("json", "[\n]\n"),
    ] {
        assert_eq!(shown(&none, manner(format)), want, "{format}");
    }
}

#[test]
fn missing_and_null_fields_are_empty_and_keys_keep_their_order() {
    let rows = Rows::of(&["z", "a", "n"], &[json!({"a": null, "z": 1})]);
    let output = Output::Rows(rows);
    assert_eq!(shown(&output, manner("")), "z\ta\tn\n1\t\t\n");
    assert_eq!(
        shown(&output, manner("json")),
        "[\n{\"z\":1,\"a\":\"\",\"n\":\"\"}\n]\n"
    );
}

#[test]
fn an_empty_table_of_arguments_is_an_empty_list_for_programs() {
    let rows = Rows::of(
        &["arguments"],
        &[json!({"arguments": {}}), json!({"arguments": {"x": 1}})],
    );
    let want = "[\n{\"arguments\":[]}\n,{\"arguments\":{\"x\":1}}\n]\n";
    assert_eq!(shown(&Output::Rows(rows), manner("json")), want);
}

#[test]
fn words_of_success_are_for_those_who_want_them() {
    let told = Output::Told("Done.".to_owned(), json!({"status": "ok"}));
    assert_eq!(shown(&told, manner("")), "Done.\n");
    let silent = Manner {
        silent: true,
        ..manner("")
    };
    assert_eq!(shown(&told, silent), "");
    assert_eq!(shown(&told, manner("json")), "{\"status\":\"ok\"}\n");
    let text = Output::Text("Ping succeeded".to_owned());
    assert_eq!(shown(&text, silent), "Ping succeeded\n");
    assert_eq!(
        shown(&text, manner("json")),
        "{\"message\":\"Ping succeeded\"}\n"
    );
    assert_eq!(shown(&Output::Nothing, manner("json")), "");
}
