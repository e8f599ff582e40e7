//! Lists: filter, sort, page, columns.
//!
//! Need: a page of a list with tens of thousands of rows costs what the page costs. Shape: rows are cheap handles that
//! know vhost and name; only those of the page are rendered, unless the order or a column needs all. Limits: pages of
//! 500, patterns of 1024 characters.

use std::cmp::Ordering;

use axum::http::StatusCode;
use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::request::Request;

const PAGE_SIZE: usize = 100;
const PAGE_SIZE_MAX: usize = 500;
const PATTERN_MAX: usize = 1024;
const STEPS_MAX: usize = 10_000;

/// A page that was asked for.
struct Page {
    number: usize,
    size: usize,
}

fn whole(request: &Request, name: &str) -> Result<Option<i64>, ApiError> {
    let number = request.parameter(name).map(str::parse).transpose();
    number.map_err(|_| ApiError::bad_request("Pagination parameters are invalid"))
}

fn page(request: &Request) -> Result<Option<Page>, ApiError> {
    let (number, size) = (whole(request, "page")?, whole(request, "page_size")?);
    let Some(number) = number else {
        return Ok(None);
    };
    let given = size.map_or_else(|| "undefined".to_owned(), |size| size.to_string());
    let sizes = 1..=PAGE_SIZE_MAX;
    let size = size.map_or(Some(PAGE_SIZE), |size| usize::try_from(size).ok());
    match (usize::try_from(number), size) {
        (Ok(number), Some(size)) if number > 0 && sizes.contains(&size) => {
            Ok(Some(Page { number, size }))
        }
        _ => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_pagination_parameters",
            format!("Invalid pagination parameters: page number {number}, page size {given}"),
        )),
    }
}

type Filter = Box<dyn Fn(&str) -> bool + Send>;

fn filter(request: &Request) -> Result<Option<Filter>, ApiError> {
    let Some(name) = request.parameter("name").filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if !request.is_set("use_regex") {
        let wanted = name.to_lowercase();
        return Ok(Some(Box::new(move |name| {
            name.to_lowercase().contains(&wanted)
        })));
    }
    let regex = pattern(name, "(?i)")?;
    Ok(Some(Box::new(move |name| {
        regex.is_match(name).unwrap_or(false)
    })))
}

/// A pattern of a request, with its flags; one that takes too many steps matches nothing.
///
/// # Errors
/// 400 for one that is too long or none.
pub fn pattern(source: &str, flags: &str) -> Result<Regex, ApiError> {
    if source.len() > PATTERN_MAX {
        return Err(ApiError::bad_request("regular expression is too long"));
    }
    RegexBuilder::new(&format!("{flags}{source}"))
        .backtrack_limit(STEPS_MAX)
        .build()
        .map_err(|error| ApiError::bad_request(format!("invalid regular expression: {error}")))
}

/// A field by dotted name.
fn field<'a>(row: &'a Value, dotted: &str) -> Option<&'a Value> {
    dotted.split('.').try_fold(row, |value, key| value.get(key))
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    fn rank(value: Option<&Value>) -> u8 {
        match value {
            None | Some(Value::Null | Value::Number(_)) => 0,
            Some(Value::Bool(_)) => 1,
            Some(Value::Object(_)) => 2,
            Some(Value::Array(_)) => 3,
            Some(Value::String(_)) => 4,
        }
    }
    let number = |value: Option<&Value>| value.and_then(Value::as_f64).unwrap_or(0.0);
    match (a, b) {
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        _ => rank(a)
            .cmp(&rank(b))
            .then_with(|| number(a).total_cmp(&number(b))),
    }
}

/// Keeps the columns that were asked for.
pub fn columns(request: &Request, row: Value) -> Value {
    let wanted = request.parameter("columns").filter(|text| !text.is_empty());
    let Some(wanted) = wanted else {
        return row;
    };
    let mut kept = Map::new();
    for dotted in wanted.split(',') {
        let Some(value) = field(&row, dotted) else {
            continue;
        };
        let mut place = &mut kept;
        let mut keys = dotted.split('.').peekable();
        while let Some(key) = keys.next() {
            if keys.peek().is_none() {
                place.insert(key.to_owned(), value.clone());
                break;
            }
            let entry = place.entry(key).or_insert_with(|| json!({}));
            if !entry.is_object() {
                *entry = json!({});
            }
            match entry.as_object_mut() {
                Some(object) => place = object,
                None => break,
            }
        }
    }
    Value::Object(kept)
}

/// Rows to be rendered, and what then happens to them.
pub struct Chosen<T> {
    /// Those of the page; all, if the order or nothing else can tell which those are.
    pub rows: Vec<T>,
    /// See [`Rest::finish`].
    pub rest: Rest,
}

/// What is left to do once rows are rendered.
pub struct Rest {
    page: Option<Page>,
    total: usize,
    filtered: usize,
    /// The field to sort by, if it is not known before.
    key: Option<(String, bool)>,
}

/// What of a list is to be rendered. `name` gives vhost and name of a row.
///
/// # Errors
/// 400 for parameters that make no sense.
pub fn choose<T>(
    request: &Request,
    mut rows: Vec<T>,
    name: impl for<'a> Fn(&'a T) -> (&'a str, &'a str),
) -> Result<Chosen<T>, ApiError> {
    let page = page(request)?;
    let total = rows.len();
    if let (Some(_), Some(filter)) = (&page, filter(request)?) {
        rows.retain(|row| filter(name(row).1));
    }
    let filtered = rows.len();
    let reverse = request.is_set("sort_reverse");
    let sort = request.parameter("sort").filter(|sort| !sort.is_empty());
    let by_name = sort == Some("name");
    rows.sort_by(|a, b| {
        let ((vhost, name), (other_vhost, other_name)) = (name(a), name(b));
        match by_name {
            true => (name, vhost).cmp(&(other_name, other_vhost)),
            false => (vhost, name).cmp(&(other_vhost, other_name)),
        }
    });
    let key = sort.filter(|key| !matches!(*key, "name" | "vhost"));
    let key = key.map(|key| (key.to_owned(), reverse));
    if reverse && sort.is_some() && key.is_none() {
        rows.reverse();
    }
    if let (Some(page), None) = (&page, &key) {
        let from = page.start(filtered)?;
        rows = rows.into_iter().skip(from).take(page.size).collect();
    }
    let rest = Rest {
        page,
        total,
        filtered,
        key,
    };
    Ok(Chosen { rows, rest })
}

impl<T> Chosen<T> {
    /// The field the order depends on, if it is not vhost or name.
    pub fn key(&self) -> Option<&str> {
        self.rest.key.as_ref().map(|(key, _)| key.as_str())
    }

    /// Orders by the values of that field, one per row, and keeps the page: nothing but it needs to be rendered.
    ///
    /// # Errors
    /// 400 for a page past the end.
    pub fn order(self, values: Vec<f64>) -> Result<Self, ApiError> {
        let Self { rows, mut rest } = self;
        let reverse = rest.key.take().is_some_and(|(_, reverse)| reverse);
        let mut rows: Vec<(f64, T)> = values.into_iter().zip(rows).collect();
        rows.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        if reverse {
            rows.reverse();
        }
        let rows = rows.into_iter().map(|(_, row)| row);
        let rows = match &rest.page {
            Some(page) => {
                let from = page.start(rest.filtered)?;
                rows.skip(from).take(page.size).collect()
            }
            None => rows.collect(),
        };
        Ok(Self { rows, rest })
    }

    /// Whether the rows are the answer as they stand, in their order.
    pub fn is_plain(&self) -> bool {
        self.rest.page.is_none() && self.rest.key.is_none()
    }
}

impl Rest {
    /// The answer.
    ///
    /// # Errors
    /// 400 for a page past the end.
    pub fn finish(self, request: &Request, mut rows: Vec<Value>) -> Result<Value, ApiError> {
        if let Some((key, reverse)) = &self.key {
            rows = ordered(rows, key, *reverse);
            if let Some(page) = &self.page {
                let from = page.start(rows.len())?;
                rows = rows.into_iter().skip(from).take(page.size).collect();
            }
        }
        match self.page {
            Some(page) => Ok(page.envelope(request, (self.total, self.filtered), rows)),
            None => Ok(rows.into_iter().map(|row| columns(request, row)).collect()),
        }
    }
}

/// A list without pages.
pub fn plain(request: &Request, rows: Vec<Value>) -> Value {
    let rows = match request.parameter("sort").filter(|sort| !sort.is_empty()) {
        Some(key) => ordered(rows, key, request.is_set("sort_reverse")),
        None => rows,
    };
    rows.into_iter().map(|row| columns(request, row)).collect()
}

fn ordered(mut rows: Vec<Value>, key: &str, reverse: bool) -> Vec<Value> {
    rows.sort_by(|a, b| compare(field(a, key), field(b, key)));
    if reverse {
        rows.reverse();
    }
    rows
}

impl Page {
    fn start(&self, len: usize) -> Result<usize, ApiError> {
        let from = (self.number - 1).saturating_mul(self.size);
        if from >= len && self.number > 1 {
            let (page, size) = (self.number, self.size);
            let reason = format!("Page out of range, page: {page} page size: {size}, len: {len}");
            let status = StatusCode::BAD_REQUEST;
            return Err(ApiError::new(status, "page_out_of_range", reason));
        }
        Ok(from)
    }

    fn envelope(
        &self,
        request: &Request,
        (total, filtered): (usize, usize),
        items: Vec<Value>,
    ) -> Value {
        let items: Vec<Value> = items.into_iter().map(|row| columns(request, row)).collect();
        json!({
            "total_count": total,
            "filtered_count": filtered,
            "item_count": items.len(),
            "page": self.number,
            "page_size": self.size,
            "page_count": filtered.div_ceil(self.size),
            "items": items,
        })
    }
}
