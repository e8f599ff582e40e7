//! The API's outside, as its operator configures it: where its paths begin, which headers its answers have, which pages of
//! other origins may ask it.
//!
//! As RabbitMQ's `rabbit_mgmt_cors` and `rabbit_mgmt_headers`. Not here: who may ask.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};

use super::ApiError;

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Front {
    /// What stands before `/api`: `/a/b`; empty: nothing.
    pub prefix: String,
    /// Headers of every answer, in place of the usual ones; an empty value leaves one out.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Origins whose pages may ask; `*` is every origin.
    pub origins: Vec<String>,
    /// How long a browser may remember that, seconds. `None`: as long as it likes.
    pub origins_max_age_s: Option<u32>,
    /// Lists are as with `disable_stats=true`.
    pub without_stats: bool,
    /// And of queues as with `enable_queue_totals=true`.
    pub queue_totals: bool,
    /// Operator policies may only be looked at.
    pub operator_policies_fixed: bool,
    /// HTTP Basic is refused.
    pub without_basic: bool,
    /// How long the user interface keeps a login, minutes.
    pub session_minutes: Option<u32>,
}

/// What a request says that its answer's headers depend on.
#[derive(Debug)]
pub struct Asked {
    origin: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    preflight: bool,
}

impl Asked {
    /// Of a request.
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        Self {
            origin: headers.get(header::ORIGIN).cloned(),
            headers: headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
            preflight: *method == Method::OPTIONS,
        }
    }
}

impl Front {
    /// The path without the prefix.
    ///
    /// # Errors
    /// 404 for a path that is not below it.
    pub fn inner<'a>(&self, path: &'a str) -> Result<&'a str, ApiError> {
        let inner = path.strip_prefix(&*self.prefix);
        let inner = inner.filter(|inner| inner.is_empty() || inner.starts_with('/'));
        inner.ok_or_else(ApiError::not_found)
    }

    /// Puts this front's headers onto an answer.
    pub fn dress(&self, asked: &Asked, response: &mut Response<Body>) {
        let allow = response.headers().get(header::ALLOW).cloned();
        let headers = response.headers_mut();
        for (name, value) in &self.headers {
            match value.is_empty() {
                true => drop(headers.remove(name)),
                false => drop(headers.insert(name, value.clone())),
            }
        }
        let Some(origin) = asked.origin.as_ref().filter(|origin| self.welcomes(origin)) else {
            return;
        };
        let yes = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        if !asked.preflight {
            return;
        }
        let more = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, allow),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, asked.headers.clone()),
            (
                header::ACCESS_CONTROL_MAX_AGE,
                self.origins_max_age_s.map(HeaderValue::from),
            ),
        ];
        headers.extend(
            more.into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    }

    fn welcomes(&self, origin: &HeaderValue) -> bool {
        let origin = origin.as_bytes();
        let mut origins = self.origins.iter();
        origins.any(|one| one == "*" || one.as_bytes() == origin)
    }
}
