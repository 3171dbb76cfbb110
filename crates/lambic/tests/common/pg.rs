//! Postgres's simple query protocol, as much of it as tests need.

use std::{
    io::{BufReader, Read, Write},
    net::TcpStream,
};

use super::PATIENCE;

/// Values as text; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

pub struct Pg {
    socket: BufReader<TcpStream>,
    /// What the last `ReadyForQuery` said: `I`, `T` or `E`.
    pub status: char,
}

impl Pg {
    pub fn connect(address: &str) -> Pg {
        let socket = TcpStream::connect(address).expect("the server listens");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket has timeouts");
        socket.set_nodelay(true).expect("a socket can send at once");
        let mut pg = Pg {
            socket: BufReader::new(socket),
            status: '?',
        };
        let startup = b"\x00\x03\x00\x00user\0tester\0database\0lambic\0\0";
        let length = (startup.len() as u32 + 4).to_be_bytes();
        pg.send(&[&length[..], startup].concat());
        pg.answer().expect("anybody is let in");
        pg
    }

    /// The rows of all statements, or SQLSTATE and message.
    pub fn query(&mut self, sql: &str) -> Result<Rows, String> {
        let length = (sql.len() as u32 + 5).to_be_bytes();
        self.send(&[&b"Q"[..], &length, sql.as_bytes(), b"\0"].concat());
        self.answer()
    }

    /// The same, and it must succeed.
    #[track_caller]
    pub fn ok(&mut self, sql: &str) -> Rows {
        self.query(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Parses a statement, which has a name from then on; by the extended protocol.
    pub fn prepare(&mut self, name: &str, sql: &str) -> Result<(), String> {
        let parse = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat();
        self.send(&[message(b'P', &parse), message(b'S', b"")].concat());
        self.answer().map(drop)
    }

    /// Executes it with these values, all in text.
    pub fn execute(&mut self, name: &str, values: &[&str]) -> Result<Rows, String> {
        let mut bind = [b"\0", name.as_bytes(), b"\0\0\0"].concat();
        bind.extend((values.len() as u16).to_be_bytes());
        for value in values {
            bind.extend((value.len() as u32).to_be_bytes());
            bind.extend(value.as_bytes());
        }
        bind.extend([0, 0]);
        let execute = message(b'E', b"\0\0\0\0\0");
        self.send(&[message(b'B', &bind), execute, message(b'S', b"")].concat());
        self.answer()
    }

    /// Sends one statement, whose answer is read row by row.
    pub fn begin(&mut self, sql: &str) {
        let length = (sql.len() as u32 + 5).to_be_bytes();
        self.send(&[&b"Q"[..], &length, sql.as_bytes(), b"\0"].concat());
    }

    /// The next row of what has begun, or SQLSTATE and message of what ended it.
    pub fn row(&mut self) -> Result<Vec<Option<String>>, String> {
        loop {
            let (kind, body) = self.message();
            match kind {
                b'D' => return Ok(values(&body)),
                b'E' => return Err(error(&body)),
                b'Z' => return Err("it has ended".to_owned()),
                _ => {}
            }
        }
    }

    /// Reads up to a message of this kind.
    pub fn wait_for(&mut self, wanted: u8) {
        loop {
            let (kind, body) = self.message();
            if kind == wanted {
                return;
            }
            assert!(kind != b'E' && kind != b'Z', "{}", error(&body));
        }
    }

    fn send(&mut self, message: &[u8]) {
        let sent = self.socket.get_mut().write_all(message);
        sent.expect("the server takes it");
    }

    fn message(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        let read = self.socket.read_exact(&mut head);
        read.expect("the server answers");
        let [kind, length @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        let read = self.socket.read_exact(&mut body);
        read.expect("the server answers");
        (kind, body)
    }

    fn answer(&mut self) -> Result<Rows, String> {
        let mut rows = Rows::new();
        let mut failed = None;
        loop {
            let (kind, body) = self.message();
            match kind {
                b'D' => rows.push(values(&body)),
                b'E' => failed = Some(error(&body)),
                b'Z' => {
                    self.status = char::from(body[0]);
                    return match failed {
                        Some(error) => Err(error),
                        None => Ok(rows),
                    };
                }
                _ => {}
            }
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind][..], &length, body].concat()
}

fn values(mut body: &[u8]) -> Vec<Option<String>> {
    let mut number = |bytes: usize| {
        let (number, rest) = body.split_at(bytes);
        body = rest;
        number.to_vec()
    };
    let count = number(2);
    let count = u16::from_be_bytes([count[0], count[1]]);
    let values = (0..count).map(|_| {
        let length = number(4);
        let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        let length = usize::try_from(length).ok()?;
        Some(String::from_utf8(number(length)).expect("text is UTF-8"))
    });
    values.collect()
}

fn error(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let field = |code| {
        let mut fields = text.split('\0');
        let found = fields.find_map(|field| field.strip_prefix(code));
        found.unwrap_or_default().to_owned()
    };
    format!("{}: {}", field('C'), field('M'))
}
