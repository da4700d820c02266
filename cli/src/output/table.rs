//! Lists: columns without borders, as kubectl writes them.

use std::fmt;

use comfy_table::{CellAlignment, ContentArrangement, presets::NOTHING};

/// Rows under a head. Never wrapped, so that `grep` and `awk` see one row per line.
pub(crate) struct Table(comfy_table::Table);

impl Table {
    /// An empty table with these column heads.
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
        Self(table)
    }

    /// The table with these columns set flush right.
    pub(crate) fn right<const N: usize>(mut self, columns: [usize; N]) -> Self {
        for index in columns {
            if let Some(column) = self.0.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Adds a row. Control characters, which names from other machines may hold, are written as `?`.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells.map(|cell| match cell.is_empty() {
            true => "-".to_owned(),
            false => cell.replace(|c: char| c.is_control(), "?"),
        }));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.lines().try_for_each(|line| {
            // The left padding of the first column says nothing.
            let line = line.trim_end();
            writeln!(f, "{}", line.strip_prefix(' ').unwrap_or(line))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_one_line_per_row_and_no_borders() {
        let mut table = Table::new(["NODE", "CALLS"]).right([1]);
        table.row(["press".into(), "12".into()]);
        table.row(["weld".into(), String::new()]);
        assert_eq!(table.to_string(), "NODE   CALLS\npress     12\nweld       -\n");
    }

    #[test]
    fn names_from_elsewhere_cannot_control_the_terminal() {
        let mut table = Table::new(["NODE"]);
        table.row(["\u{1b}[2Jpress\n".into()]);
        assert_eq!(table.to_string(), "NODE\n?[2Jpress?\n");
    }
}
