//! Rows of text in aligned columns.

/// Joins rows, the first of them the header, so that every column starts at one place. Columns named in `right` are
/// aligned at their ends, as numbers want.
pub(super) fn aligned(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |cell: &str| cell.chars().count();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|c| width(c)).max())
        .map(Option::unwrap_or_default)
        .collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, wide))| {
            let space = " ".repeat(wide - width(cell));
            if right.contains(&column) {
                format!("{space}{cell}")
            } else {
                format!("{cell}{space}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_start_or_end_at_one_place() {
        let rows = [vec!["run", "loss"], vec!["größe", "4.25"], vec!["a", "12"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(aligned(&rows, &[1]), "run    loss\ngröße  4.25\na        12");
        assert_eq!(aligned(&[], &[]), "");
    }
}
