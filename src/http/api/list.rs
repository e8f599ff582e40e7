//! Lists: filter, sort, page, columns.
//!
//! Need: a page of a list with tens of thousands of rows costs what the page costs. Shape: rows are cheap handles that
//! know vhost and name; only those of the page are rendered, unless the order or a column needs all. Limits: pages of
//! 500, patterns of 1024 characters.

use std::cmp::Ordering;

use fancy_regex::RegexBuilder;
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

fn whole(request: &Request, name: &str, default: usize) -> Result<usize, ApiError> {
    let Some(text) = request.parameter(name) else {
        return Ok(default);
    };
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(ApiError::bad_request("Pagination parameters are invalid")),
    }
}

fn page(request: &Request) -> Result<Option<Page>, ApiError> {
    if request.parameter("page").is_none() {
        return Ok(None);
    }
    let number = whole(request, "page", 1)?;
    let size = whole(request, "page_size", PAGE_SIZE)?;
    if size > PAGE_SIZE_MAX {
        let reason = format!(
            "Invalid pagination parameters: page number {number}, page size {size}. Max page size is {PAGE_SIZE_MAX}"
        );
        return Err(ApiError::bad_request(reason));
    }
    Ok(Some(Page { number, size }))
}

type Filter = Box<dyn Fn(&str) -> bool + Send>;

fn filter(request: &Request) -> Result<Option<Filter>, ApiError> {
    let Some(name) = request.parameter("name").filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if !request.is_set("use_regex") {
        let wanted = name.to_lowercase();
        return Ok(Some(Box::new(move |name| name.to_lowercase().contains(&wanted))));
    }
    if name.len() > PATTERN_MAX {
        return Err(ApiError::bad_request("regular expression is too long"));
    }
    let regex = RegexBuilder::new(&format!("(?i){name}"))
        .backtrack_limit(STEPS_MAX)
        .build()
        .map_err(|error| ApiError::bad_request(format!("invalid regular expression: {error}")))?;
    Ok(Some(Box::new(move |name| {
        regex.is_match(name).unwrap_or(false)
    })))
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

/// A list that can be paged. `name` gives vhost and name of a row; `render` makes rows, those of one page if it can.
///
/// # Errors
/// 400 for parameters that make no sense.
pub async fn paged<T, R>(
    request: &Request,
    mut rows: Vec<T>,
    name: impl Fn(&T) -> (String, String),
    render: R,
) -> Result<Value, ApiError>
where
    R: AsyncFn(Vec<T>) -> Vec<Value>,
{
    let page = page(request)?;
    let total = rows.len();
    if let (Some(_), Some(filter)) = (&page, filter(request)?) {
        rows.retain(|row| filter(&name(row).1));
    }
    let reverse = request.is_set("sort_reverse");
    let sort = request.parameter("sort").filter(|sort| !sort.is_empty());
    let by_name = match sort {
        None | Some("vhost") => true,
        Some("name") => false,
        Some(key) => {
            rows.sort_by_cached_key(&name);
            let rendered = ordered(render(rows).await, key, reverse);
            return finish(request, page, total, rendered);
        }
    };
    rows.sort_by_cached_key(|row| {
        let (vhost, name) = name(row);
        match by_name {
            true => (vhost, name),
            false => (name, vhost),
        }
    });
    if reverse && sort.is_some() {
        rows.reverse();
    }
    let Some(page) = page else {
        let all = render(rows).await;
        return Ok(all.into_iter().map(|row| columns(request, row)).collect());
    };
    let filtered = rows.len();
    let from = page.start(filtered)?;
    let rows: Vec<T> = rows.into_iter().skip(from).take(page.size).collect();
    let items = render(rows).await;
    Ok(page.envelope(request, (total, filtered), items))
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

fn finish(
    request: &Request,
    page: Option<Page>,
    total: usize,
    rows: Vec<Value>,
) -> Result<Value, ApiError> {
    let Some(page) = page else {
        return Ok(rows.into_iter().map(|row| columns(request, row)).collect());
    };
    let filtered = rows.len();
    let from = page.start(filtered)?;
    let items = rows.into_iter().skip(from).take(page.size).collect();
    Ok(page.envelope(request, (total, filtered), items))
}

impl Page {
    fn start(&self, len: usize) -> Result<usize, ApiError> {
        let from = (self.number - 1).saturating_mul(self.size);
        if from >= len && self.number > 1 {
            let (page, size) = (self.number, self.size);
            let reason = format!("Page out of range, page: {page} page size: {size}, len: {len}");
            let status = axum::http::StatusCode::BAD_REQUEST;
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
