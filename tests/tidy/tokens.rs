//! Rust text as a flat list of tokens, macro bodies included. Comments and string contents are gone.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One token and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// As written; a delimiter is a token of its own.
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
}

/// The tokens of a file, or why it is not Rust.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let text = text
        .strip_prefix("#!")
        .filter(|rest| !rest.starts_with('['))
        .map_or(text, |rest| rest.split_once('\n').map_or("", |(_, rest)| rest));
    let stream: TokenStream = text.parse().map_err(|error| format!("does not lex: {error}"))?;
    let mut out = Vec::new();
    flatten(stream, &mut out);
    Ok(out)
}

fn flatten(stream: TokenStream, out: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                out.push(Token { text: open.to_owned(), line });
                flatten(group.stream(), out);
                out.push(Token { text: close.to_owned(), line: group.span_close().end().line });
            }
            TokenTree::Literal(_) => out.push(Token { text: "literal".to_owned(), line }),
            other => out.push(Token { text: other.to_string(), line }),
        }
    }
}

/// The lines at which `pattern` (tokens separated by spaces) begins.
pub(crate) fn lines_of(tokens: &[Token], pattern: &str) -> Vec<usize> {
    let pattern: Vec<&str> = pattern.split(' ').collect();
    let windows = tokens.windows(pattern.len());
    windows
        .filter(|window| window.iter().zip(&pattern).all(|(token, want)| token.text == *want))
        .map(|w| w[0].line)
        .collect()
}

#[test]
fn comments_and_strings_are_no_tokens_and_macro_bodies_are() {
    let tokens = tokens("// todo!()\nfn f() { let s = \"todo!()\"; m!({ todo!() }); }").unwrap();
    assert_eq!(lines_of(&tokens, "todo ! ("), [2]);
    assert_eq!(lines_of(&tokens, "todo !").len(), 1);
}
