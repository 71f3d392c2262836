//! libchdb, loaded at run time: no link at build time and no bindgen.
//!
//! One process has one engine. [`Connection`]s are sessions of it: the first one opened starts the engine, the last one
//! closed ends it, and settings given to one stay its own.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::ptr;

use crate::engine::exception::{Exception, code};

type ConnectionHandle = *mut c_void;
type ResultHandle = *mut c_void;
type InsertHandle = *mut c_void;

macro_rules! api {
    ($($(#[$doc:meta])* $field:ident = $symbol:literal: $signature:ty;)*) => {
        /// The functions of libchdb that are used, by their C names.
        struct Api { $($(#[$doc])* $field: $signature,)* }

        impl Api {
            fn resolve(library: &libloading::os::unix::Library) -> Result<Self, libloading::Error> {
                // SAFETY: each signature is the one that chdb.h of the pinned version declares for its symbol. The
                // pointers stay valid because the library is never closed.
                unsafe { Ok(Self { $($field: *library.get::<$signature>($symbol.as_bytes())?,)* }) }
            }
        }
    };
}

api! {
    set_signal_handlers = "chdb_set_signal_handlers_enabled": unsafe extern "C" fn(c_int);
    connect = "chdb_connect": unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut ConnectionHandle;
    close = "chdb_close_conn": unsafe extern "C" fn(*mut ConnectionHandle);
    classify = "chdb_classify_query_n":
        unsafe extern "C" fn(ConnectionHandle, *const c_char, usize, *const c_char, usize, *mut Analysis) -> c_int;
    query = "chdb_query_with_params_n": unsafe extern "C" fn(
        ConnectionHandle, *const c_char, usize, *const c_char, usize,
        *const *const c_char, *const usize, *const *const c_char, *const usize, usize,
    ) -> ResultHandle;
    result_error = "chdb_result_error": unsafe extern "C" fn(ResultHandle) -> *const c_char;
    result_buffer = "chdb_result_buffer": unsafe extern "C" fn(ResultHandle) -> *mut c_char;
    result_length = "chdb_result_length": unsafe extern "C" fn(ResultHandle) -> usize;
    result_rows_read = "chdb_result_rows_read": unsafe extern "C" fn(ResultHandle) -> u64;
    result_rows_written = "chdb_result_rows_written": unsafe extern "C" fn(ResultHandle) -> u64;
    result_destroy = "chdb_destroy_query_result": unsafe extern "C" fn(ResultHandle);
    insert_open = "chdb_stream_insert_n":
        unsafe extern "C" fn(ConnectionHandle, *const c_char, usize, *const c_char, usize) -> InsertHandle;
    insert_append = "chdb_stream_append": unsafe extern "C" fn(InsertHandle, *const c_void, usize) -> c_int;
    insert_done = "chdb_stream_done": unsafe extern "C" fn(InsertHandle) -> ResultHandle;
    insert_cancel = "chdb_stream_cancel_insert": unsafe extern "C" fn(InsertHandle);
    insert_error = "chdb_stream_insert_error": unsafe extern "C" fn(InsertHandle) -> *const c_char;
    insert_destroy = "chdb_destroy_insert_stream": unsafe extern "C" fn(InsertHandle);
}

/// `chdb_query_analysis_v1`: what a text would do, by the engine's own parser.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Analysis {
    struct_size: u32,
    /// 0: does not parse.
    pub(crate) statements: u32,
    flags: u32,
    /// 0 reads, 1 changes a database, 2 changes what lies beside the databases, 3 control (SET, SYSTEM, INTO OUTFILE,
    /// KILL, BACKUP…), 4 unknown or does not parse.
    pub(crate) class: u32,
}

/// The loaded library; a handle to copy.
#[derive(Clone, Copy)]
pub(crate) struct Chdb(&'static Api);

impl fmt::Debug for Chdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chdb")
    }
}

impl Chdb {
    /// Loads the library and takes its signal handlers off: SIGTERM and SIGSEGV stay this process's own.
    ///
    /// Never unloaded, for the engine keeps threads.
    pub(crate) fn load(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: initialisers of the pinned library (its sha256 is checked at set-up) run here; they start no threads and
        // change no state that Rust relies on.
        let library = unsafe { libloading::os::unix::Library::open(Some(path), libc::RTLD_NOW | libc::RTLD_LOCAL)? };
        let api: &'static Api = Box::leak(Box::new(Api::resolve(&library)?));
        std::mem::forget(library);
        // SAFETY: takes an integer; called before the first connection, as chdb.h wants.
        unsafe { (api.set_signal_handlers)(0) };
        Ok(Self(api))
    }

    /// Opens a session. `arguments` are `--name=value`; an unknown name is ignored by the engine without a word, a value
    /// that does not fit gives no session and no reason.
    pub(crate) fn connect(self, arguments: &[String]) -> Result<Connection, Exception> {
        let mut owned = vec![c"tidemark-engine".to_owned()];
        for argument in arguments {
            let argument = CString::new(argument.as_str())
                .map_err(|_| Exception::new(code::BAD_ARGUMENTS, "a setting holds a zero byte; remove it"))?;
            owned.push(argument);
        }
        let mut pointers: Vec<*mut c_char> = owned.iter().map(|s| s.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| Exception::new(code::BAD_ARGUMENTS, "too many settings in one request"))?;
        // SAFETY: `pointers` holds `count` pointers to zero-terminated strings that live until the call returns; the engine
        // copies what it keeps and writes to none of them.
        let session = unsafe { (self.0.connect)(count, pointers.as_mut_ptr()) };
        // SAFETY: a pointer that is not null points to a chdb_connection, which stays readable until it is closed.
        if session.is_null() || unsafe { *session }.is_null() {
            return Err(Exception::new(code::BAD_ARGUMENTS, "the engine refused the session; a value does not fit its setting"));
        }
        Ok(Connection { api: self.0, session })
    }
}

/// One session of the engine, used by one thread at a time.
pub(crate) struct Connection {
    api: &'static Api,
    session: *mut ConnectionHandle,
}

// SAFETY: the engine keeps no thread-local state in a session; it may move between threads while no call is running, and
// `&self` methods cannot run at once because the type is not Sync.
unsafe impl Send for Connection {}

impl Connection {
    fn handle(&self) -> ConnectionHandle {
        // SAFETY: `session` was checked when it was opened and is closed only by drop.
        unsafe { *self.session }
    }

    /// What a text would do, without running it.
    pub(crate) fn classify(&self, sql: &str) -> Analysis {
        // Four fields of four bytes; chdb.h versions the struct by its size.
        let size = const {
            assert!(size_of::<Analysis>() == 16);
            16
        };
        let mut analysis = Analysis { struct_size: size, statements: 0, flags: 0, class: 4 };
        // SAFETY: `sql` is readable for its length; no target database is given; `analysis` is as large as it says.
        let status = unsafe { (self.api.classify)(self.handle(), sql.as_ptr().cast(), sql.len(), ptr::null(), 0, &raw mut analysis) };
        if status != 0 {
            analysis.class = 4;
            analysis.statements = 0;
        }
        analysis
    }

    /// Runs one statement to its end. `parameters` fill `{name:Type}` places, in the engine's escaped text form.
    pub(crate) fn query(&self, sql: &str, format: &str, parameters: &[(String, String)]) -> Result<ResultBuffer, Exception> {
        let names: Vec<*const c_char> = parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect();
        let name_lengths: Vec<usize> = parameters.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<*const c_char> = parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let value_lengths: Vec<usize> = parameters.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: every pointer is readable for the length passed beside it until the call returns, and the four arrays have
        // `parameters.len()` items each.
        let handle = unsafe {
            (self.api.query)(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                parameters.len(),
            )
        };
        ResultBuffer { api: self.api, handle }.checked()
    }

    /// Opens an INSERT whose rows follow; `sql` has no FORMAT clause.
    pub(crate) fn insert(&self, sql: &str, format: &str) -> Result<Insert<'_>, Exception> {
        // SAFETY: both texts are readable for their lengths until the call returns.
        let handle = unsafe { (self.api.insert_open)(self.handle(), sql.as_ptr().cast(), sql.len(), format.as_ptr().cast(), format.len()) };
        if handle.is_null() {
            return Err(Exception::new(code::ENGINE_LOST, "the engine opened no insert and gave no reason"));
        }
        let insert = Insert { api: self.api, handle, ended: false, session: PhantomData };
        match insert.error() {
            Some(exception) => Err(exception),
            None => Ok(insert),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: opened by connect, closed once; inserts borrow the connection and results do not need it.
        unsafe { (self.api.close)(self.session) };
    }
}

/// What a statement returned, as the engine's own memory.
pub(crate) struct ResultBuffer {
    api: &'static Api,
    handle: ResultHandle,
}

// SAFETY: a result is plain memory once it has been returned; no thread of the engine touches it.
unsafe impl Send for ResultBuffer {}

impl ResultBuffer {
    fn checked(self) -> Result<Self, Exception> {
        if self.handle.is_null() {
            return Err(Exception::new(code::ENGINE_LOST, "the engine gave no result and no reason"));
        }
        // SAFETY: the handle is not null; the text lives as long as the result.
        match unsafe { text((self.api.result_error)(self.handle)) } {
            Some(error) => Err(Exception::from_engine(error)),
            None => Ok(self),
        }
    }

    pub(crate) fn rows_read(&self) -> u64 {
        // SAFETY: the handle is a result that is not yet destroyed.
        unsafe { (self.api.result_rows_read)(self.handle) }
    }

    pub(crate) fn rows_written(&self) -> u64 {
        // SAFETY: as above.
        unsafe { (self.api.result_rows_written)(self.handle) }
    }
}

impl AsRef<[u8]> for ResultBuffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the handle is a result that is not yet destroyed; buffer and length belong together, and the memory is
        // neither changed nor freed before `self` is dropped.
        unsafe {
            let (start, length) = ((self.api.result_buffer)(self.handle), (self.api.result_length)(self.handle));
            if start.is_null() || length == 0 { &[] } else { std::slice::from_raw_parts(start.cast(), length) }
        }
    }
}

impl Drop for ResultBuffer {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: destroyed once.
            unsafe { (self.api.result_destroy)(self.handle) };
        }
    }
}

/// An INSERT that takes rows as they are given. Dropped without [`Insert::finish`], it is cancelled.
pub(crate) struct Insert<'c> {
    api: &'static Api,
    handle: InsertHandle,
    ended: bool,
    session: PhantomData<&'c Connection>,
}

impl Insert<'_> {
    fn error(&self) -> Option<Exception> {
        // SAFETY: the handle is an insert that is not yet destroyed; the text is copied at once.
        unsafe { text((self.api.insert_error)(self.handle)) }.map(Exception::from_engine)
    }

    pub(crate) fn append(&mut self, rows: &[u8]) -> Result<(), Exception> {
        // SAFETY: `rows` is readable for its length; the engine copies it.
        let status = unsafe { (self.api.insert_append)(self.handle, rows.as_ptr().cast(), rows.len()) };
        if status == 0 {
            return Ok(());
        }
        let unsaid = || Exception::new(code::ENGINE_LOST, "the engine took no more rows and gave no reason");
        Err(self.error().unwrap_or_else(unsaid))
    }

    pub(crate) fn finish(mut self) -> Result<ResultBuffer, Exception> {
        self.ended = true;
        // SAFETY: ends the insert once; the handle itself is destroyed by drop.
        let handle = unsafe { (self.api.insert_done)(self.handle) };
        ResultBuffer { api: self.api, handle }.checked()
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        // SAFETY: cancelled only if it has not ended, destroyed once.
        unsafe {
            if !self.ended {
                (self.api.insert_cancel)(self.handle);
            }
            (self.api.insert_destroy)(self.handle);
        }
    }
}

/// The text at `at`, if there is one that is not empty.
///
/// # Safety
/// `at` is null or points to a zero-terminated text that stays unchanged during the call.
unsafe fn text(at: *const c_char) -> Option<String> {
    if at.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}
