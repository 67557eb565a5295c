//! Line-by-line difference of two transcripts.

/// A line of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// In both.
    Same(String),
    /// Over plain TCP only.
    Plain(String),
    /// Under the library only.
    Library(String),
}

impl Line {
    pub(crate) fn differs(&self) -> bool {
        !matches!(self, Self::Same(_))
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Same(text) | Self::Plain(text) | Self::Library(text) => text,
        }
    }
}

/// A shortest difference, by the longest common subsequence.
pub(crate) fn diff(plain: &[String], library: &[String]) -> Vec<Line> {
    let (n, m) = (plain.len(), library.len());
    // common[i][j]: length of the longest common subsequence of the tails.
    let mut common = vec![vec![0_u32; m + 1]; n + 1];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            common[i][j] = if plain[i] == library[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::with_capacity(n.max(m));
    while i < n || j < m {
        if i < n && j < m && plain[i] == library[j] {
            lines.push(Line::Same(plain[i].clone()));
            i += 1;
            j += 1;
        } else if i < n && (j == m || common[i + 1][j] >= common[i][j + 1]) {
            lines.push(Line::Plain(plain[i].clone()));
            i += 1;
        } else {
            lines.push(Line::Library(library[j].clone()));
            j += 1;
        }
    }
    lines
}

/// The difference with a few equal lines around each place.
pub(crate) fn render(lines: &[Line]) -> String {
    const AROUND: usize = 3;
    let near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        let to = (at + AROUND + 1).min(lines.len());
        lines[from..to].iter().any(Line::differs)
    };
    let mut text = String::new();
    let mut gap = false;
    for (at, line) in lines.iter().enumerate() {
        if !near(at) {
            gap = true;
            continue;
        }
        if gap && !text.is_empty() {
            text.push_str("    ...\n");
        }
        gap = false;
        let (mark, line) = match line {
            Line::Same(line) => (' ', line),
            Line::Plain(line) => ('-', line),
            Line::Library(line) => ('+', line),
        };
        text.push_str(&format!("  {mark} {line}\n"));
    }
    text
}
