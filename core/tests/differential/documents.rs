//! Documents to decode: events by a grammar that goes wrong now and then, and bytes changed afterwards.

/// Draws from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Draws(pub u64);

impl Draws {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut n = self.0;
        n = (n ^ n >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        n = (n ^ n >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        n ^ n >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn of<'t, T: ?Sized>(&mut self, things: &[&'t T]) -> &'t T {
        things[self.below(things.len())]
    }
}

/// A document: mostly an event or nearly one, sometimes one of `real`, sometimes anything.
pub fn document(draws: &mut Draws, real: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match draws.below(10) {
        0..=6 => event(draws).into_bytes(),
        7 | 8 => real[draws.below(real.len())].clone(),
        _ => value(draws, 0).into_bytes(),
    };
    if draws.one_in(3) {
        for _ in 0..=draws.below(3) {
            change(draws, &mut bytes, real);
        }
    }
    bytes
}

fn event(draws: &mut Draws) -> String {
    let mut fields: Vec<(String, String)> = Vec::new();
    let (careless, mut names) = (draws.one_in(2), vec!["event_type", "timestamp"]);
    for name in ["event_id", "product_id", "user_id", "order_amount", "properties", "other"] {
        if draws.one_in(2) {
            names.push(name);
        }
    }
    if careless && draws.one_in(4) {
        names.push(draws.of(&["event_type", "timestamp", "event_id", "user_id", "order_amount", "properties", "other"]));
    }
    if careless && draws.one_in(8) {
        names.remove(draws.below(names.len()));
    }
    for name in names {
        let value = if careless && draws.one_in(12) { value(draws, 1) } else { field(draws, name) };
        fields.insert(draws.below(fields.len() + 1), (quoted_name(draws, name), value));
    }
    object(draws, fields)
}

fn field(draws: &mut Draws, name: &str) -> String {
    match name {
        "timestamp" => timestamp(draws),
        "order_amount" => match draws.below(8) {
            0 => "null".to_owned(),
            1 => format!("\"{}\"", number(draws)),
            _ => number(draws),
        },
        "properties" => match draws.below(8) {
            0 => "null".to_owned(),
            _ => {
                let fields = members(draws, 2);
                object(draws, fields)
            }
        },
        "event_type" if !draws.one_in(20) => format!("\"{}{}", draws.of(&["a", "view", "\\u0055A", "é"]), &string(draws)[1..]),
        "other" => value(draws, 1),
        _ if draws.one_in(6) => "null".to_owned(),
        _ => string(draws),
    }
}

fn object(draws: &mut Draws, fields: Vec<(String, String)>) -> String {
    let members: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{}{name}{}:{}{value}{}", space(draws), space(draws), space(draws), space(draws)))
        .collect();
    format!("{}{{{}{}}}{}", space(draws), members.join(","), space(draws), space(draws))
}

fn space(draws: &mut Draws) -> &'static str {
    match draws.below(240) {
        0 => draws.of(&["\u{c}", "\u{a0}", "\u{b}", "\u{85}"]),
        1..=30 => draws.of(&[" ", "\n", "\t", "\r\n", "  \n "]),
        _ => "",
    }
}

/// A name, some of its characters as escapes.
fn quoted_name(draws: &mut Draws, name: &str) -> String {
    let escaped = draws.one_in(8);
    let character = |c: char| if escaped && draws.one_in(4) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    format!("\"{}\"", name.chars().map(character).collect::<String>())
}

fn value(draws: &mut Draws, depth: usize) -> String {
    match draws.below(if depth > 4 { 5 } else { 8 }) {
        0 => draws
            .of(&["null", "true", "false", "[]", "{}", "NaN", "nul", "True", "Infinity", "-Infinity", "undefined", "'x'", ""])
            .to_owned(),
        1 | 2 => number(draws),
        3 | 4 => string(draws),
        5 => {
            let items: Vec<String> = (0..draws.below(4)).map(|_| value(draws, depth + 1)).collect();
            format!("[{}{}{}]", space(draws), items.join(","), space(draws))
        }
        6 => {
            let fields = members(draws, depth + 1);
            object(draws, fields)
        }
        _ => nested(draws),
    }
}

fn members(draws: &mut Draws, depth: usize) -> Vec<(String, String)> {
    (0..draws.below(4))
        .map(|_| {
            let name = draws.of(&["a", "b", "event_type", "timestamp", "", "é"]);
            (quoted_name(draws, name), value(draws, depth))
        })
        .collect()
}

/// Brackets in brackets, about as many as are allowed by some limit.
fn nested(draws: &mut Draws) -> String {
    let levels = draws.of(&[&1, &2, &3, &30, &31, &32, &33, &126, &127, &128, &129, &300][..]);
    let kinds = draws.next();
    let is_object = |level: usize| kinds >> (level % 64) & 1 == 1;
    let open: String = (0..*levels).map(|level| if is_object(level) { "{\"a\":" } else { "[" }).collect();
    let close: String = (0..*levels).rev().map(|level| if is_object(level) { '}' } else { ']' }).collect();
    let inner = draws.of(&["1", "\"\\ud800\"", "null", "", "[]"]);
    format!("{open}{inner}{close}")
}

fn string(draws: &mut Draws) -> String {
    const USUAL: [&str; 12] = ["a", "view", "N14228", "EWR-IAH", "é", "😀", "\u{0}0", "/", "nyc-000000", " ", "}", ","];
    const ESCAPES: [&str; 12] = [
        r"\n",
        r"\u00e9",
        r"\ud83d\ude00",
        r"\/",
        r#"\""#,
        r"\\",
        r"\u0000",
        r"\uFFFF",
        r"\b\f\r\t",
        r"\u0022",
        r"\uD7FF\uE000",
        r"\udbff\udfff",
    ];
    const BROKEN: [&str; 14] = [
        r"\ud800",
        r"\udc00",
        r"\ud83dx",
        r"\ud83d\u0041",
        r"\ude00\ud83d",
        r"\x",
        r"\u12",
        r"\u00g0",
        "\t",
        "\n",
        "\u{1f}",
        "\"",
        r"\ud83d\n",
        r"\u+123",
    ];
    let mut text = String::new();
    for _ in 0..draws.below(4) {
        let piece = match draws.below(40) {
            0 => draws.of(&BROKEN),
            1..=5 => draws.of(&ESCAPES),
            _ => draws.of(&USUAL),
        };
        text += if piece == "\u{0}0" { "\u{7f}" } else { piece };
    }
    if draws.one_in(15) {
        // About as long as an event's type or an id may be.
        let length = draws.of(&[&127, &128, &129, &255, &256, &257][..]);
        text = draws.of(&["x", "é", r"\n"]).repeat(*length);
        text.truncate(text.len() & !1);
    }
    format!("\"{text}\"")
}

fn number(draws: &mut Draws) -> String {
    const ODD: [&str; 34] = [
        "0",
        "-0",
        "-0.0",
        "0e0",
        "1E+5",
        "1e-5",
        "0.00005",
        "0.00015",
        "-2.5e-5",
        "0.000050000000000000000000000001",
        "1e14",
        "-1e14",
        "100000000000000.00005",
        "100000000000000.00005000001",
        "1e15",
        "1e999",
        "1e-999",
        "0e99999999999999999999",
        "9223372036854775807",
        "99999999999999.99995",
        "1e00014",
        "123456789012345678901234567890123456789012e-40",
        "1e99999999999999999999",
        "5e-5",
        "15e-5",
        "00",
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1.e1",
        "1e",
        "0x10",
    ];
    const SOUND: usize = 25;
    let odd = draws.below(12);
    if odd < 3 {
        return draws.of(&ODD[..if odd == 0 { ODD.len() } else { SOUND }]).to_owned();
    }
    let digits = |draws: &mut Draws, most: usize| -> String {
        (0..=draws.below(most)).map(|_| *draws.of(&[&'0', &'0', &'1', &'5', &'9', &'7'][..])).collect()
    };
    let mut text = if draws.one_in(4) { "-".to_owned() } else { String::new() };
    text += match draws.below(3) {
        0 => "0",
        _ => "1",
    };
    if text.ends_with('1') {
        let most = draws.of(&[&3, &16, &40][..]);
        text += &digits(draws, *most);
    }
    if draws.one_in(2) {
        text = text + "." + &digits(draws, 8);
    }
    if draws.one_in(4) {
        text = text + draws.of(&["e", "E", "e+", "e-", "E-"]) + &digits(draws, 2);
    }
    text
}

fn timestamp(draws: &mut Draws) -> String {
    // Around everything that decides: the records' own times, the earliest and the latest, the calendar's ends.
    const EDGES: [i64; 8] = [
        946_684_800_000,
        1_795_564_800_000,
        1_795_651_200_000,
        4_294_967_100_000,
        0,
        -62_167_219_200_000,
        253_402_300_799_999,
        1_357_035_300_000,
    ];
    match draws.below(8) {
        0..=2 => format!("{}", EDGES[draws.below(EDGES.len())] + i64::try_from(draws.below(3)).expect("small") - 1),
        3 => number(draws),
        _ => {
            let odd = draws.one_in(4);
            let mut of =
                |usual: &[&'static str], others: &[&'static str]| if odd && draws.one_in(5) { draws.of(others) } else { draws.of(usual) };
            let year = of(
                &["2013", "2000", "2026", "2024"],
                &["0000", "0001", "1900", "1969", "1999", "2100", "2106", "9999", "10000", "213", "-001", "２013"],
            );
            let month = of(&["01", "02", "11", "12"], &["00", "13", "1", "04", "06", "09"]);
            let day = of(&["01", "15", "24", "28"], &["00", "29", "30", "31", "32", "7"]);
            let at = of(&["T"], &["t", " ", "", "_"]);
            let hour = of(&["00", "10", "23"], &["24", "1", "-1", "0x"]);
            let minute = of(&["00", "15", "59"], &["60", "5"]);
            let second = of(&["00", "30", "59"], &["60", "61", "5", ""]);
            let fraction = of(&["", ".000", ".123"], &[".", ".1", ".9999999999999", ",5", ".12a", ".00049"]);
            let zone = of(
                &["Z", "Z", "+02:00"],
                &["", "z", "-09:30", "+23:59", "-23:59", "+24:00", "+02:60", "+0200", "+2:00", "ZZ", "-00:00", "é", "−02:00"],
            );
            let dash = of(&["-"], &["/", "−", ""]);
            format!("\"{year}{dash}{month}-{day}{at}{hour}:{minute}:{second}{fraction}{zone}\"")
        }
    }
}

/// One change of the bytes.
fn change(draws: &mut Draws, bytes: &mut Vec<u8>, real: &[Vec<u8>]) {
    const PIECES: [&[u8]; 30] = [
        b",",
        b":",
        b"\"",
        b"\\",
        b"\\u",
        b"\\ud800",
        b"{",
        b"}",
        b"[",
        b"]",
        b"{}",
        b"[]",
        b"e",
        b"-",
        b".",
        b"0",
        b"NaN",
        b"null",
        b"1e999",
        b" ",
        b"\n",
        b"\0",
        b"\x7f",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xef\xbb\xbf",
        b"\xf4\x90\x80\x80",
        b"//",
        b"\xe2\x80\xa8",
    ];
    const BYTES: &[u8] = b"{}[]\",:\\0159eE+-. \t\n\x0c/ubtrfn\x00\x80\xff";
    let (from, to) = (draws.below(bytes.len() + 1), draws.below(bytes.len() + 1));
    let (from, to) = (from.min(to), from.max(to).min(from.min(to) + 12));
    match draws.below(12) {
        0 if from < bytes.len() => bytes[from] ^= 1 << draws.below(8),
        1 if from < bytes.len() => bytes[from] = BYTES[draws.below(BYTES.len())],
        2 => drop(bytes.drain(from..to)),
        3 => bytes.truncate(from),
        4 => drop(bytes.drain(..from)),
        5 => {
            let again = bytes[from..to].to_vec();
            drop(bytes.splice(from..from, again));
        }
        6 => {
            let other = &real[draws.below(real.len())];
            let at = draws.below(other.len() + 1);
            bytes.truncate(from);
            bytes.extend_from_slice(&other[at..]);
        }
        7 => {
            let space = *draws.of(&[&b' ', &b'\n', &b'\t', &b'\r'][..]);
            drop(bytes.splice(from..from, vec![space; draws.below(70)]));
        }
        // Where a comma, a colon or a bracket stands, a change matters most.
        8 | 9 => {
            let marks: Vec<usize> = (0..bytes.len()).filter(|&at| b",:{}[]\"".contains(&bytes[at])).collect();
            if !marks.is_empty() {
                let at = marks[draws.below(marks.len())];
                let piece = if draws.one_in(3) { b"," } else { draws.of(&PIECES) };
                drop(bytes.splice(at..at, piece.iter().copied()));
            }
        }
        _ => drop(bytes.splice(from..from, draws.of(&PIECES).iter().copied())),
    }
}
