//! The pages as HTML: what opens is closed in its order, names are there once and lead somewhere, tables are whole,
//! everything that can be pressed or looked at has a name.

use std::collections::BTreeSet;

const VOID: [&str; 6] = ["meta", "link", "img", "input", "br", "hr"];

/// What may not stand in a paragraph.
const BLOCKS: [&str; 12] =
    ["p", "div", "ul", "table", "figure", "details", "section", "h1", "h2", "h3", "pre", "dl"];

struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
}

impl Tag {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Name and attributes of what stands between `<` and `>`, and what follows; attributes are quoted or bare words.
fn parse(text: &str) -> Result<(Tag, bool, &str), String> {
    let end = text.find(|c: char| c.is_whitespace() || c == '>' || c == '/').ok_or("no end")?;
    let (name, mut rest) = text.split_at(end);
    let mut tag = Tag { name: name.to_ascii_lowercase(), attributes: Vec::new() };
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("/>") {
            return Ok((tag, true, after));
        }
        if let Some(after) = rest.strip_prefix('>') {
            return Ok((tag, false, after));
        }
        let end = rest.find(|c: char| c.is_whitespace() || "=>/".contains(c)).ok_or("no end")?;
        let (key, after) = rest.split_at(end);
        if key.is_empty() {
            return Err(format!("stray text in <{name}>: {rest:.30}"));
        }
        let (value, after) = match after.strip_prefix("=\"") {
            Some(after) => after.split_once('"').ok_or("an open quote")?,
            None if after.starts_with('=') => {
                return Err(format!("`{key}` of <{name}> is not quoted"));
            }
            None => ("", after),
        };
        if tag.attributes.iter().any(|(known, _)| known == key) {
            return Err(format!("<{name}> has `{key}` twice"));
        }
        tag.attributes.push((key.to_owned(), value.to_owned()));
        rest = after;
    }
}

/// What is wrong with a page.
#[expect(clippy::too_many_lines, reason = "one rule after the other")]
pub(crate) fn complaints(page: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut open, mut ids): (Vec<Tag>, BTreeSet<String>) = (Vec::new(), BTreeSet::new());
    let (mut wanted, mut level) = (Vec::new(), 0);
    // Of each open table: columns of its first row, cells of the row at hand.
    let mut tables: Vec<(Option<usize>, usize)> = Vec::new();
    let Some(mut rest) = page.strip_prefix("<!doctype html>") else {
        return vec!["it does not begin with its doctype".to_owned()];
    };
    while let Some(start) = rest.find('<') {
        let text = &rest[start + 1..];
        if let Some(after) = text.strip_prefix('/') {
            let (name, after) = after.split_once('>').unwrap_or((after, ""));
            match open.pop() {
                Some(tag) if tag.name == name => {}
                Some(tag) => wrong.push(format!("</{name}> closes <{}>", tag.name)),
                None => wrong.push(format!("</{name}> closes nothing")),
            }
            if name == "tr"
                && let Some((columns, cells)) = tables.last_mut()
            {
                if columns.get_or_insert(*cells) != cells {
                    wrong.push(format!("a row of {cells} cells in a table of {columns:?}"));
                }
                *cells = 0;
            }
            if name == "table" {
                tables.pop();
            }
            rest = after;
            continue;
        }
        let (tag, closed, after) = match parse(text) {
            Ok(found) => found,
            Err(error) => {
                wrong.push(error);
                break;
            }
        };
        rest = after;
        let name = tag.name.as_str();
        let within = |outer: &str| open.iter().any(|tag| tag.name == outer);
        if BLOCKS.contains(&name) && within("p") {
            wrong.push(format!("<{name}> within <p>"));
        }
        if ["a", "button", "summary", "input"].contains(&name) && (within("a") || within("button"))
        {
            wrong.push(format!("<{name}> within something that can be pressed"));
        }
        if name == "li" && open.last().is_none_or(|tag| !["ul", "ol"].contains(&tag.name.as_str()))
        {
            wrong.push("<li> outside of a list".to_owned());
        }
        if let Some(id) = tag.attribute("id")
            && !ids.insert(id.to_owned())
        {
            wrong.push(format!("two elements named {id}"));
        }
        wanted.extend(tag.attribute("href").and_then(|to| to.strip_prefix('#')).map(str::to_owned));
        for reference in ["data-from", "data-copies", "for", "aria-labelledby", "aria-describedby"]
        {
            wanted.extend(tag.attribute(reference).map(str::to_owned));
        }
        // What has words beside it is not told twice.
        let beside_words = within("button") || within("label");
        if name == "img" && tag.attribute("alt").is_none_or(|alt| alt.is_empty() && !beside_words) {
            wrong.push("an <img> without alt".to_owned());
        }
        if name == "button" && tag.attribute("type") != Some("button") {
            wrong.push("a <button> that would send a form".to_owned());
        }
        if tag.attribute("tabindex").is_some() {
            if tag.attribute("tabindex") != Some("0") {
                wrong.push(format!("<{name}> changes the order of the focus"));
            }
            if name != "pre" && tag.attribute("aria-label").is_none_or(str::is_empty) {
                wrong.push(format!("a focusable <{name}> without a name"));
            }
        }
        if let Some(found) = name.strip_prefix('h').and_then(|level| level.parse::<u32>().ok()) {
            if found > level + 1 {
                wrong.push(format!("<{name}> below a heading of level {level}"));
            }
            level = found;
        }
        match name {
            "table" => tables.push((None, 0)),
            "td" | "th" => {
                let span = tag.attribute("colspan").map_or(1, |span| span.parse().unwrap());
                if let Some((_, cells)) = tables.last_mut() {
                    *cells += span;
                }
            }
            _ => {}
        }
        if name == "script" || name == "style" {
            let end = format!("</{name}>");
            rest = rest.split_once(&end).map_or("", |(_, after)| after);
        } else if !closed && !VOID.contains(&name) {
            open.push(tag);
        } else if closed && !within("svg") && !VOID.contains(&name) {
            wrong.push(format!("<{name}/> is closed at once"));
        }
    }
    wrong.extend(open.iter().map(|tag| format!("<{}> is never closed", tag.name)));
    wrong.extend(
        wanted.iter().filter(|id| !ids.contains(*id)).map(|id| format!("nothing is named {id}")),
    );
    wrong
}

#[test]
fn what_is_wrong_is_found() {
    let page = |body: &str| format!("<!doctype html><html><body>{body}</body></html>");
    assert!(complaints(&page("<p id=\"a\">x<br>y</p><a href=\"#a\">b</a>")).is_empty());
    for (body, complaint) in [
        ("<p>x", "</body> closes <p>"),
        ("<p><div></div></p>", "<div> within <p>"),
        ("<i id=\"a\"></i><i id=\"a\"></i>", "two elements named a"),
        ("<a href=\"#b\">c</a>", "nothing is named b"),
        ("<img src=\"data:,\">", "an <img> without alt"),
        (
            "<table><tr><td></td></tr><tr><td></td><td></td></tr></table>",
            "a row of 2 cells in a table of Some(1)",
        ),
        ("<h1>a</h1><h3>b</h3>", "<h3> below a heading of level 1"),
        ("<i a=b></i>", "`a` of <i> is not quoted"),
        ("<i a=\"1\" a=\"2\"></i>", "<i> has `a` twice"),
        ("<button>x</button>", "a <button> that would send a form"),
        ("<div tabindex=\"0\"></div>", "a focusable <div> without a name"),
    ] {
        assert!(complaints(&page(body)).contains(&complaint.to_owned()), "{body}");
    }
}
