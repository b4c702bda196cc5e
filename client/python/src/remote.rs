//! `kvtier.Client`: every call over gRPC, for callers that block.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kvtier_client::{
    Client as Native, ClientError, ConnectOptions, Endpoint, GetAnswer, GetStream, MissReason, PutBlock,
    SpaceDescription, TlsOptions, wire,
};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use tokio::sync::Semaphore;

use crate::argument::{Space, durability, owned, seconds, verdict};
use crate::error::{invalid, plain, raise};
use crate::event::{Events, start_of};
use crate::identity::{self, Described};
use crate::memory::{Block, Way, borrow_all};
use crate::outcome::{Lease, Lookup, Miss, OpenSpace, Outcome};
use crate::pending::{Convert, Pending, Place};
use crate::process::{self, Owned};
use crate::runtime::Runtime;
use crate::status;

/// Lookups that were started and not answered yet, at most.
const STARTED_MAX: usize = 1024;
/// When to try again after there were that many.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// The connections and the runtime under them.
pub(crate) struct Connection {
    // Dropped first: its channels belong to the runtime.
    client: Owned<Native>,
    pub(crate) runtime: Runtime,
    started: Arc<Semaphore>,
}

/// One daemon over gRPC, for any number of threads.
///
/// `endpoint` is "http://HOST:PORT", "https://HOST:PORT" or "unix:///PATH". Waits are in seconds: `connect_timeout` bounds
/// connecting, `call_timeout` one call, `stall_timeout` the silence on a stream of puts or gets. With lazy=True the first
/// call connects. TLS takes PEM: `tls_ca`, `tls_identity` (certificate chain, private key), `tls_server_name`.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Client {
    connection: Mutex<Option<Arc<Connection>>>,
    endpoint: String,
    process: u32,
}

impl Client {
    fn connection(&self) -> PyResult<Arc<Connection>> {
        process::check(self.process)?;
        let connection = self.connection.lock().expect("nobody panics while closing");
        connection.clone().ok_or_else(|| plain("Error", "this client was closed"))
    }
}

impl Connection {
    pub(crate) fn client(&self) -> PyResult<&Native> {
        self.client.get()
    }

    /// Waits for one call without the GIL.
    fn wait<T: Send>(&self, py: Python<'_>, call: impl Future<Output = Result<T, ClientError>> + Send) -> PyResult<T> {
        self.runtime.wait(py, call)?.map_err(raise)
    }
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (endpoint, *, connect_timeout=5.0, call_timeout=10.0, stall_timeout=30.0,
                        put_bytes_in_flight_max=67108864, put_blocks_in_flight_max=256, client_id=None, lazy=false,
                        tls_ca=None, tls_identity=None, tls_server_name=None))]
    #[expect(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn new(
        py: Python<'_>,
        endpoint: &str,
        connect_timeout: f64,
        call_timeout: f64,
        stall_timeout: f64,
        put_bytes_in_flight_max: usize,
        put_blocks_in_flight_max: usize,
        client_id: Option<String>,
        lazy: bool,
        tls_ca: Option<Vec<u8>>,
        tls_identity: Option<(Vec<u8>, Vec<u8>)>,
        tls_server_name: Option<String>,
    ) -> PyResult<Self> {
        let options = ConnectOptions {
            connect_timeout: seconds("connect_timeout", connect_timeout)?,
            call_timeout: seconds("call_timeout", call_timeout)?,
            stall_timeout: seconds("stall_timeout", stall_timeout)?,
            put_bytes_in_flight_max,
            put_blocks_in_flight_max,
            client_id,
            tls: TlsOptions { ca_pem: tls_ca, identity_pem: tls_identity, server_name: tls_server_name },
        };
        let at: Endpoint = endpoint.parse().map_err(raise)?;
        let runtime = Runtime::new(py)?;
        let connecting = async {
            match lazy {
                true => Native::connect_lazily(&at, options),
                false => Native::connect_with(&at, options).await,
            }
        };
        let client = Owned::new(runtime.wait(py, connecting)?.map_err(raise)?);
        let started = Arc::new(Semaphore::new(STARTED_MAX));
        let connection = Mutex::new(Some(Arc::new(Connection { client, runtime, started })));
        Ok(Self { connection, endpoint: endpoint.to_owned(), process: std::process::id() })
    }

    /// The name this client's leases belong to.
    #[getter]
    fn id(&self) -> PyResult<String> {
        Ok(self.connection()?.client()?.id().to_owned())
    }

    /// Opens or finds a space and returns its digest, which names it in every other call. `name` is for people; another
    /// description under the same name raises Conflict.
    fn open_space<'py>(&self, py: Python<'py>, name: &str, description: Described) -> PyResult<Bound<'py, PyBytes>> {
        let connection = self.connection()?;
        let description = SpaceDescription::from(description);
        let opened = connection.wait(py, connection.client()?.open_space(name, &description))?;
        Ok(PyBytes::new(py, &opened.space.0))
    }

    /// Every space that is open on the node.
    fn spaces(&self, py: Python<'_>) -> PyResult<Vec<OpenSpace>> {
        let connection = self.connection()?;
        let spaces = connection.wait(py, connection.client()?.spaces())?;
        let spaces = spaces.into_iter().map(|space| {
            Ok(OpenSpace {
                space: PyBytes::new(py, &space.space.0).unbind(),
                description: identity::to_python(py, &space.description)?.unbind(),
                name: space.name,
                blocks: space.blocks,
                nbytes: space.bytes,
            })
        });
        spaces.collect()
    }

    /// Forgets a space and all its blocks; how many there were.
    fn drop_space(&self, py: Python<'_>, space: Space) -> PyResult<u64> {
        let connection = self.connection()?;
        connection.wait(py, connection.client()?.drop_space(space.0))
    }

    /// Finds the longest resident prefix of a chain, in one call. With `lease` (seconds) it stays resident that long.
    /// `request` is the engine's name of the request it is for: the daemon then remembers the answer for `kvtier why`.
    #[pyo3(signature = (space, keys, *, lease=None, request=None))]
    fn lookup(
        &self,
        py: Python<'_>,
        space: Space,
        keys: Vec<PyBackedBytes>,
        lease: Option<f64>,
        request: Option<&str>,
    ) -> PyResult<Lookup> {
        let connection = self.connection()?;
        let (keys, lease) = (owned(&keys), lease.map(|lease| seconds("lease", lease)).transpose()?);
        Ok(connection.wait(py, connection.client()?.lookup_for(request, space.0, &keys, lease))?.into())
    }

    /// The same without waiting: a Pending[Lookup].
    #[pyo3(signature = (space, keys, *, lease=None, request=None))]
    fn lookup_start(
        &self,
        space: Space,
        keys: Vec<PyBackedBytes>,
        lease: Option<f64>,
        request: Option<String>,
    ) -> PyResult<Pending> {
        let connection = self.connection()?;
        let (keys, lease) = (owned(&keys), lease.map(|lease| seconds("lease", lease)).transpose()?);
        let client = connection.client()?.clone();
        let turn = Arc::clone(&connection.started).try_acquire_owned();
        let turn = turn.map_err(|_| {
            let detail = format!("{STARTED_MAX} lookups are on their way: ask for their answers before starting more");
            raise(ClientError::Exhausted { call: "lookup", detail, retry_after: RETRY_AFTER })
        })?;
        let place = Arc::new(Place::default());
        let filled = Arc::clone(&place);
        connection.runtime.handle()?.spawn(async move {
            let found = client.lookup_for(request.as_deref(), space.0, &keys, lease).await;
            drop(turn);
            filled.fill(
                found.map(|found| -> Convert { Box::new(move |py| Ok(Py::new(py, Lookup::from(found))?.into_any())) }),
            );
        });
        Ok(Pending::new(place))
    }

    /// Adds what became of a request to what the daemon remembers of it: verdict "loaded", "declined" or "failed" for so
    /// many `blocks`, and why.
    #[pyo3(signature = (space, request, verdict, *, blocks=0, detail=""))]
    fn report(
        &self,
        py: Python<'_>,
        space: Space,
        request: &str,
        verdict: &str,
        blocks: u32,
        detail: &str,
    ) -> PyResult<()> {
        let connection = self.connection()?;
        let outcome = kvtier_client::why::Outcome { verdict: self::verdict(verdict)?, blocks, detail };
        connection.wait(py, connection.client()?.report(space.0, request, outcome))
    }

    /// Ends a lease before its deadline. One that is over already is no error.
    fn release(&self, py: Python<'_>, lease: &Lease) -> PyResult<()> {
        let connection = self.connection()?;
        connection.wait(py, connection.client()?.release(lease.0.clone()))
    }

    /// Puts a chain's blocks, or one `part` of each: one buffer per key, one Outcome per key. `parent` is the key of the
    /// block before the first. With durability="durable" an outcome comes when the bytes are synced.
    #[pyo3(signature = (space, keys, buffers, *, parent=None, part=0, durability="volatile"))]
    #[expect(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn put(
        &self,
        py: Python<'_>,
        space: Space,
        keys: Vec<PyBackedBytes>,
        buffers: Vec<Bound<'_, PyAny>>,
        parent: Option<PyBackedBytes>,
        part: u32,
        durability: &str,
    ) -> PyResult<Vec<Outcome>> {
        let connection = self.connection()?;
        if keys.len() != buffers.len() {
            return Err(invalid("buffers", format!("{} for {} keys", buffers.len(), keys.len()), "give one per key"));
        }
        let (keys, parent) = (owned(&keys), parent.map(|parent| Bytes::copy_from_slice(&parent)));
        let (buffers, durability) = (borrow_all(&buffers, Way::IntoBlocks)?, self::durability(durability)?);
        // Copied when there is room in flight, not before.
        let blocks = buffers.iter().enumerate().map(|(index, buffer)| PutBlock {
            key: keys[index].clone(),
            parent: index.checked_sub(1).map_or_else(|| parent.clone(), |before| Some(keys[before].clone())),
            part,
            bytes: buffer.to_bytes(),
            durability,
        });
        let outcomes = connection.wait(py, connection.client()?.put_many(space.0, blocks))?;
        Ok(outcomes.into_iter().map(Outcome::from).collect())
    }

    /// Gets a chain's blocks: for every key a Block, verified, or a Miss.
    fn get(&self, py: Python<'_>, space: Space, keys: Vec<PyBackedBytes>) -> PyResult<Vec<Py<PyAny>>> {
        let connection = self.connection()?;
        let (client, keys) = (connection.client()?, owned(&keys));
        let answers = connection.wait(py, async { collect(client.get_keys(space.0, &keys).await?).await })?;
        answers.into_iter().map(|answer| to_python(py, answer)).collect()
    }

    /// Gets the blocks a lease holds: for every one a Block, verified, or a Miss.
    fn get_lease(&self, py: Python<'_>, lease: &Lease) -> PyResult<Vec<Py<PyAny>>> {
        let connection = self.connection()?;
        let client = connection.client()?;
        let answers = connection.wait(py, async { collect(client.get_lease(&lease.0).await?).await })?;
        answers.into_iter().map(|answer| to_python(py, answer)).collect()
    }

    /// Starts moving a chain's resident prefix to the host tier. Answers at once with (resident there already, started,
    /// refused) as numbers of blocks.
    fn prefetch(&self, py: Python<'_>, space: Space, keys: Vec<PyBackedBytes>) -> PyResult<(u32, u32, u32)> {
        let connection = self.connection()?;
        let answer = connection.wait(py, connection.client()?.prefetch(space.0, &owned(&keys)))?;
        Ok((answer.resident, answer.started, answer.refused))
    }

    /// Keeps a chain's resident prefix under a name for `ttl` seconds; how many blocks that is. Pinning again under a
    /// name replaces the pin.
    fn pin(&self, py: Python<'_>, space: Space, name: &str, keys: Vec<PyBackedBytes>, ttl: f64) -> PyResult<u32> {
        let connection = self.connection()?;
        let ttl = seconds("ttl", ttl)?;
        Ok(connection.wait(py, connection.client()?.pin(space.0, name, &owned(&keys), ttl))?.blocks)
    }

    /// Ends a pin; whether there was one.
    fn unpin(&self, py: Python<'_>, space: Space, name: &str) -> PyResult<bool> {
        let connection = self.connection()?;
        connection.wait(py, connection.client()?.unpin(space.0, name))
    }

    /// Forgets blocks; how many of them were there.
    fn delete(&self, py: Python<'_>, space: Space, keys: Vec<PyBackedBytes>) -> PyResult<u32> {
        let connection = self.connection()?;
        connection.wait(py, connection.client()?.delete(space.0, &owned(&keys)))
    }

    /// What the node is doing: tiers, journal, index, alarms.
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let connection = self.connection()?;
        status::to_python(py, &connection.wait(py, connection.client()?.status())?)
    }

    /// Follows the node's event log over lost connections and restarts. `start` is "tail" (from now on), "snapshot" (what
    /// is resident first), or the (epoch, seq) after which to begin. `spaces`: only theirs; none means all.
    #[pyo3(signature = (start=None, spaces=None))]
    fn events(&self, start: Option<Bound<'_, PyAny>>, spaces: Option<Vec<Space>>) -> PyResult<Events> {
        let start = start_of(start.as_ref())?;
        let spaces: Vec<_> = spaces.into_iter().flatten().map(|space| space.0).collect();
        Events::follow(self.connection()?, start, &spaces)
    }

    /// Ends the connections; leases end at their deadlines.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        process::check(self.process)?;
        let connection = self.connection.lock().expect("nobody panics while closing").take();
        py.detach(|| drop(connection));
        Ok(())
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<kvtier.Client at {}>", self.endpoint)
    }
}

/// An answer, or the block that was corrupt.
type Got = Result<GetAnswer, ClientError>;

async fn collect(mut answers: GetStream) -> Result<Vec<Got>, ClientError> {
    let mut got = Vec::new();
    loop {
        match answers.next().await {
            Ok(Some(answer)) => got.push(Ok(answer)),
            Ok(None) => return Ok(got),
            Err(corrupt @ ClientError::Corrupt { .. }) => got.push(Err(corrupt)),
            Err(error) => return Err(error),
        }
    }
}

/// A Block or a Miss. Bytes that disagree with their checksum were dropped: that block is missed like any other.
fn to_python(py: Python<'_>, got: Got) -> PyResult<Py<PyAny>> {
    match got {
        Ok(GetAnswer::Block(block)) => Ok(Py::new(py, Block::received(block))?.into_any()),
        Ok(GetAnswer::Miss(missed)) => Ok(Py::new(py, Miss::new(missed.index as usize, missed.miss))?.into_any()),
        Err(corrupt) => {
            let index = if let ClientError::Corrupt { index, .. } = corrupt { index as usize } else { 0 };
            let reason = MissReason::Corrupt.into();
            let miss = wire::Miss { reason, detail: corrupt.to_string(), age_ms: None, tier: 0 };
            Ok(Py::new(py, Miss::new(index, miss))?.into_any())
        }
    }
}
