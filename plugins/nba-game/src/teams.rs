//! The two teams that a game's id names.

/// The away and the home team of `DATE-AWAY-HOME` or `AWAY-HOME`: two names of
/// two to four letters or digits, upper case, beginning with a letter, after a
/// date of digits and hyphens or nothing. Any other id names nobody, and the
/// teams come from the events.
pub(crate) fn of(game_id: &str) -> Option<[&str; 2]> {
    let (rest, home) = game_id.rsplit_once('-')?;
    let (date, away) = rest.rsplit_once('-').unwrap_or(("", rest));
    let dated = date
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'-');
    (dated && is_team(away) && is_team(home) && away != home).then_some([away, home])
}

fn is_team(name: &str) -> bool {
    (2..=4).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_uppercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn an_id_names_both_teams_or_none() {
        for (game_id, teams) in [
            ("2015-12-17-TOR-CHA", Some(["TOR", "CHA"])),
            ("20151217-TOR-CHA", Some(["TOR", "CHA"])),
            ("TOR-CHA", Some(["TOR", "CHA"])),
            ("LA-76ERS", None),
            ("LA-S76", Some(["LA", "S76"])),
            ("TOR-TOR", None),
            ("final-TOR-CHA", None),
            ("tor-cha", None),
            ("TORONTO-CHA", None),
            ("T-CHA", None),
            ("TOR", None),
            ("TOR-", None),
            ("-CHA", None),
            ("", None),
            ("0022300061", None),
        ] {
            assert_eq!(of(game_id), teams, "{game_id}");
        }
    }
}
