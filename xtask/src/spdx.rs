//! Licence expressions: may we use what is offered under these terms?

/// Why an expression has no meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdxError {
    /// A licence or a parenthesis was due.
    #[error("a licence is missing after '{0}'")]
    MissingLicence(String),
    /// A parenthesis is not closed.
    #[error("a parenthesis is not closed")]
    Unclosed,
    /// Something stands behind the end of the expression.
    #[error("'{0}' is one word too many")]
    Trailing(String),
}

/// Whether the expression can be satisfied with the allowed terms alone.
///
/// An entry of `allowed` is a licence (`MIT`) or a licence with its exception
/// (`Apache-2.0 WITH LLVM-exception`). A licence that is allowed is so in
/// later versions too (`MIT+`); an exception must be allowed by name.
///
/// # Errors
///
/// When the text is no licence expression.
pub(crate) fn satisfiable(expression: &str, allowed: &[String]) -> Result<bool, SpdxError> {
    let tokens = tokens(expression);
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        allowed,
    };
    let answer = parser.any()?;
    match parser.peek() {
        None => Ok(answer),
        Some(token) => Err(SpdxError::Trailing(token.to_owned())),
    }
}

/// Splits an expression; the slash of old manifests means "or".
fn tokens(expression: &str) -> Vec<String> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    spaced.split_whitespace().map(str::to_owned).collect()
}

struct Parser<'a> {
    tokens: &'a [String],
    at: usize,
    allowed: &'a [String],
}

impl Parser<'_> {
    fn any(&mut self) -> Result<bool, SpdxError> {
        let mut answer = self.all()?;
        while self.take("OR") {
            answer |= self.all()?;
        }
        Ok(answer)
    }

    fn all(&mut self) -> Result<bool, SpdxError> {
        let mut answer = self.one()?;
        while self.take("AND") {
            answer &= self.one()?;
        }
        Ok(answer)
    }

    fn one(&mut self) -> Result<bool, SpdxError> {
        if self.take("(") {
            let answer = self.any()?;
            return if self.take(")") {
                Ok(answer)
            } else {
                Err(SpdxError::Unclosed)
            };
        }
        let licence = self.name()?;
        if self.take("WITH") {
            let exception = self.name()?;
            return Ok(self.allows(&format!("{licence} WITH {exception}")));
        }
        Ok(self.allows(&licence) || licence.strip_suffix('+').is_some_and(|l| self.allows(l)))
    }

    fn name(&mut self) -> Result<String, SpdxError> {
        match self.peek() {
            Some(token) if !matches!(token, "(" | ")" | "AND" | "OR" | "WITH") => {
                let name = token.to_owned();
                self.at += 1;
                Ok(name)
            }
            _ => {
                let before = self.at.checked_sub(1).map(|i| self.tokens[i].clone());
                Err(SpdxError::MissingLicence(before.unwrap_or_default()))
            }
        }
    }

    fn allows(&self, terms: &str) -> bool {
        self.allowed
            .iter()
            .any(|entry| entry.eq_ignore_ascii_case(terms))
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self
            .peek()
            .is_some_and(|next| next.eq_ignore_ascii_case(token));
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(expression: &str) -> Result<bool, SpdxError> {
        let allowed = [
            "MIT",
            "Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
            "Unicode-3.0",
        ];
        satisfiable(expression, &allowed.map(str::to_owned))
    }

    #[test]
    fn what_we_may_use() {
        for expression in [
            "MIT",
            "mit",
            "MIT+",
            "MIT OR GPL-3.0-only",
            "GPL-3.0-only OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
            "GPL-2.0-only AND MIT OR Apache-2.0",
        ] {
            assert_eq!(ask(expression), Ok(true), "{expression}");
        }
    }

    #[test]
    fn what_we_may_not() {
        for expression in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "MIT AND (EUPL-1.2 OR GPL-2.0-or-later)",
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "MIT WITH LLVM-exception",
            "(MIT OR Apache-2.0) AND Unicode-DFS-2016",
        ] {
            assert_eq!(ask(expression), Ok(false), "{expression}");
        }
    }

    #[test]
    fn what_means_nothing() {
        for expression in [
            "",
            "MIT OR",
            "AND MIT",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
            "MIT WITH",
        ] {
            assert!(ask(expression).is_err(), "{expression}");
        }
    }
}
