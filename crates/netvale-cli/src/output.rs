//! Tables for people and JSON lines for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Result;

/// One object per line on stdout.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::from)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

/// Text on stdout, with a newline.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// A progress message on stderr. Losing it must not end a measurement.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table whose columns are as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|&(head, a)| (head.to_owned(), a));
        Self {
            columns: columns.collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells stay empty, surplus ones are not shown.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The whole table, without a final newline.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let head = &self.columns[column].0;
            cells
                .chain([head])
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let heads: Vec<_> = self.columns.iter().map(|(head, _)| head.clone()).collect();
        let mut lines = vec![self.render_row(&heads, &widths)];
        lines.extend(self.rows.iter().map(|row| self.render_row(row, &widths)));
        lines.join("\n")
    }

    fn render_row(&self, cells: &[String], widths: &[usize]) -> String {
        let mut text = String::new();
        for (i, ((_, align), &width)) in self.columns.iter().zip(widths).enumerate() {
            let cell = cells.get(i).map_or("", String::as_str);
            let gap = if i == 0 { "" } else { "  " };
            text += &match align {
                Align::Left => format!("{gap}{cell:<width$}"),
                Align::Right => format!("{gap}{cell:>width$}"),
            };
        }
        text.truncate(text.trim_end().len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("port", Align::Left), ("frames", Align::Right)]);
        table.row(vec!["vale0:a".into(), "5".into()]);
        table.row(vec!["vale0:long".into(), "1234567".into()]);
        assert_eq!(
            table.render(),
            "port         frames\nvale0:a           5\nvale0:long  1234567"
        );
    }
}
