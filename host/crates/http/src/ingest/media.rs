//! How a body holds its events, by its `Content-Type`.

/// How events stand in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One event, or an array of events.
    Json,
    /// One event a line.
    NdJson,
}

/// Events do not come in this content type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "send application/json (one event, or an array) or application/x-ndjson (one event a line), in UTF-8"
)]
pub struct UnsupportedMediaType;

impl Format {
    /// Reads a `Content-Type`; its charset may be there if it is UTF-8, and
    /// parameters that mean nothing here are ignored.
    pub fn of(content_type: Option<&str>) -> Result<Self, UnsupportedMediaType> {
        let content_type = content_type.ok_or(UnsupportedMediaType)?;
        let mut parts = content_type.split(';');
        let essence = parts.next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let format = if is("application/json") {
            Self::Json
        } else if is("application/x-ndjson") || is("application/ndjson") || is("application/jsonl")
        {
            Self::NdJson
        } else {
            return Err(UnsupportedMediaType);
        };
        for parameter in parts {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_matches('"');
            let is_utf8 = ["utf-8", "utf8", "us-ascii"]
                .iter()
                .any(|charset| value.eq_ignore_ascii_case(charset));
            if name.trim().eq_ignore_ascii_case("charset") && !is_utf8 {
                return Err(UnsupportedMediaType);
            }
        }
        Ok(format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_types() {
        for (content_type, format) in [
            ("application/json", Format::Json),
            ("Application/JSON; charset=UTF-8", Format::Json),
            ("application/json;charset=\"utf-8\"", Format::Json),
            ("application/json; profile=x", Format::Json),
            ("application/x-ndjson", Format::NdJson),
            ("application/ndjson; charset=utf8", Format::NdJson),
            ("application/jsonl", Format::NdJson),
        ] {
            assert_eq!(Format::of(Some(content_type)), Ok(format), "{content_type}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for content_type in [
            "",
            "text/plain",
            "text/json",
            "application/json; charset=latin1",
            "application/x-www-form-urlencoded",
            "application/jsonx",
        ] {
            assert!(Format::of(Some(content_type)).is_err(), "{content_type}");
        }
        assert!(Format::of(None).is_err());
    }
}
