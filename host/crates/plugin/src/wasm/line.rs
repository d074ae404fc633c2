//! Text of a plugin's making as a line of a log or a message.

/// Text of a plugin's making on one line, of at most `bytes_max` bytes.
pub fn one_line(text: &str, bytes_max: usize) -> String {
    const ELLIPSIS: &str = "…";
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if line.len() > bytes_max {
        line.truncate(line.floor_char_boundary(bytes_max.saturating_sub(ELLIPSIS.len())));
        line.push_str(ELLIPSIS);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_between_characters_and_has_no_control_characters() {
        assert_eq!(one_line("a\nb\x1b[31mc", 64), "a b [31mc");
        assert_eq!(one_line("ääää", 8), "ääää");
        assert_eq!(one_line("äääää", 8), "ää…");
    }
}
