//! Keys that are this broker's own, its name, and definitions read at the start.

use super::super::value::{self, Expected};
use super::{Key, Remark, ignored, refused, set, text};

const UNCHANGED: &str = "importing what is there changes nothing; it is done at every start";

pub(super) static KEYS: &[Key] = &[
    set(
        "load_definitions",
        "file, or folder",
        "",
        "definitions imported at every start, before clients may come; a folder: each `.json` of it in order. With it no \
         default user and vhost are made",
        |d, _, v| {
            d.config.definitions = Some(v.into());
            Ok(None)
        },
    ),
    set(
        "definitions.import_backend",
        "local_filesystem",
        "local_filesystem",
        "where definitions come from",
        |_, _, v| {
            let name = v.trim_start_matches("rabbit_definitions_import_");
            value::one_of(name, &["local_filesystem"])
                .map(|_| None)
                .map_err(|_| "local_filesystem: definitions are not fetched over HTTPS".to_owned())
        },
    ),
    set(
        "definitions.local.path",
        "file, or folder",
        "",
        "the same as `load_definitions`",
        |d, _, v| {
            d.config.definitions = Some(v.into());
            Ok(None)
        },
    ),
    ignored("definitions.skip_if_unchanged", UNCHANGED),
    ignored("definitions.hashing.*", UNCHANGED),
    refused("definitions.*", "definitions are read from files only"),
    set(
        "cluster_name",
        "name",
        "the name of its first node",
        "name of the cluster, as long as it is given none by command or API",
        |d, _, v| text(d.config.cluster_name.get_or_insert_default(), v),
    ),
    set(
        "cluster_tags.$name",
        "text",
        "",
        "what the cluster is called by in the API and by commands",
        |d, name, v| tag(&mut d.config.tags[0], name, v),
    ),
    set(
        "node_tags.$name",
        "text",
        "",
        "the same of this node",
        |d, name, v| tag(&mut d.config.tags[1], name, v),
    ),
    set(
        "config_entry_decoder.passphrase",
        "text",
        "",
        "what values that begin with `encrypted:` are decrypted with; best taken from the environment, by `$(NAME)`",
        |d, _, v| text(&mut d.passphrase.text, v),
    ),
    set(
        "config_entry_decoder.iterations",
        "count",
        "1",
        "rounds of PBKDF2 that make its key",
        |d, _, v| {
            d.passphrase.iterations = value::number_u32(v, 1)?;
            Ok(None)
        },
    ),
    set(
        "config_entry_decoder.hash",
        "sha256, sha512",
        "sha256",
        "their hash",
        |d, _, v| {
            d.passphrase.sha512 = value::one_of(v, &["sha256", "sha512"])? == "sha512";
            Ok(None)
        },
    ),
    set(
        "config_entry_decoder.cipher",
        "aes_128_cbc, aes_256_cbc",
        "aes_128_cbc",
        "the cipher",
        |d, _, v| {
            d.passphrase.long = value::one_of(v, &["aes_128_cbc", "aes_256_cbc"])? == "aes_256_cbc";
            Ok(None)
        },
    ),
    refused("config_entry_decoder.*", "there is no such choice here"),
    set(
        "leveret.data_dir",
        "folder",
        "./data",
        "folder of all state",
        |d, _, v| {
            d.config.data_dir = v.into();
            Ok(None)
        },
    ),
    set(
        "leveret.product",
        "name",
        "",
        "product named to clients, in place of RabbitMQ's",
        |d, _, v| {
            d.config.product = Some(v.to_owned());
            Ok(None)
        },
    ),
    set(
        "leveret.version",
        "version",
        "",
        "version named to clients",
        |d, _, v| {
            d.config.version = Some(v.to_owned());
            Ok(None)
        },
    ),
    set(
        "leveret.segment_size",
        "bytes",
        "64MiB",
        "size of a log segment, 1 MiB to 1 GiB",
        |d, _, v| {
            d.config.segment_bytes = value::bytes_within(v, 1 << 20, 1 << 30)?;
            Ok(None)
        },
    ),
    set(
        "leveret.snapshot_every",
        "bytes",
        "256MiB",
        "log written after which a snapshot is taken, from 1 MiB",
        |d, _, v| {
            d.config.snapshot_every_bytes = value::bytes_within(v, 1 << 20, u64::MAX)?;
            Ok(None)
        },
    ),
];

fn tag(tags: &mut Vec<(String, String)>, name: &str, value: &str) -> Result<Remark, Expected> {
    tags.retain(|(other, _)| other != name);
    tags.push((name.to_owned(), value.to_owned()));
    Ok(None)
}
