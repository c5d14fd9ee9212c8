//! The HTTP side of management: which path and method is which verb or view, and the socket it is served on.

use super::ask::*;
use super::view::{self, Done};
use super::{keys, pools, verbs};
use crate::config::SOCKET_PATH_MAX;
use crate::daemon::{Daemon, Did};
use crate::metrics;
use crate::refusal::{Cause, Refusal};
use axum::Json;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use tokio::net::UnixListener;

/// The largest request body in bytes.
const BODY_MAX: usize = 64 << 10;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.cause {
            Cause::Invalid => StatusCode::BAD_REQUEST,
            Cause::NotFound => StatusCode::NOT_FOUND,
            Cause::Conflict => StatusCode::CONFLICT,
            Cause::Busy | Cause::Away => StatusCode::SERVICE_UNAVAILABLE,
            Cause::System => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self)).into_response()
    }
}

/// A JSON body; one that cannot be read is refused in the API's own form.
struct Body<T>(T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(req: axum::extract::Request, state: &S) -> Result<Body<T>, Refusal> {
        match Json::<T>::from_request(req, state).await {
            Ok(Json(t)) => Ok(Body(t)),
            Err(e @ JsonRejection::MissingJsonContentType(_)) => {
                Err(Refusal::invalid(e.body_text(), "send the header Content-Type: application/json"))
            }
            Err(e) => {
                Err(Refusal::invalid(e.body_text(), "see docs/management.md for what each request takes"))
            }
        }
    }
}

type App = State<Arc<Daemon>>;
type Answer<T> = Result<Json<T>, Refusal>;

/// Runs what may wait for a disk away from the thread that answers.
async fn away<T: Send + 'static>(
    d: Arc<Daemon>,
    f: impl FnOnce(&Daemon) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(move || f(&d)).await.unwrap_or_else(|e| {
        Err(Refusal::new(
            Cause::System,
            format!("the request failed inside: {e}"),
            "report it, with the target's log",
        ))
    })
}

async fn done(
    d: Arc<Daemon>,
    f: impl FnOnce(&Daemon) -> Result<Did, Refusal> + Send + 'static,
) -> Answer<Done> {
    away(d, f).await.map(|did| Json(Done { changed: did == Did::Changed, ..Done::default() }))
}

fn volumes() -> Router<Arc<Daemon>> {
    let list = |State(d): App| away(d, |d| Ok(Json(view::volumes(d))));
    let create =
        |State(d): App, Body(ask): Body<CreateVolume>| done(d, move |d| verbs::create_volume(d, &ask));
    let show = |State(d): App, Path(name): Path<String>| {
        away(d, move |d| {
            view::volume(d, &name).map(Json).ok_or_else(|| {
                Refusal::not_found(
                    format!("there is no volume {name}"),
                    "see `caisson volume list` for what there is",
                )
            })
        })
    };
    let delete = |State(d): App, Path(name): Path<String>| done(d, move |d| verbs::delete_volume(d, &name));
    let resize = |State(d): App, Path(name): Path<String>, Body(ask): Body<Resize>| {
        done(d, move |d| verbs::resize_volume(d, &name, &ask))
    };
    let erase = |State(d): App, Path(name): Path<String>, Body(ask): Body<EraseAsk>| {
        let asked = away(d, move |d| verbs::erase_volume(d, &name, &ask));
        async { asked.await.map(|n| Json(Done { changed: true, erase: Some(n), ..Done::default() })) }
    };
    let set = |State(d): App, Path(name): Path<String>, Body(ask): Body<ServicesAsk>| {
        done(d, move |d| verbs::set_volume(d, &name, &ask))
    };
    let snapshot = |State(d): App, Path(name): Path<String>, Body(ask): Body<Copy>| {
        done(d, move |d| verbs::copy_volume(d, &name, &ask, true))
    };
    let clone = |State(d): App, Path(name): Path<String>, Body(ask): Body<Copy>| {
        done(d, move |d| verbs::copy_volume(d, &name, &ask, false))
    };
    Router::new()
        .route("/v1/volumes", get(list).post(create))
        .route("/v1/volumes/{name}", get(show).delete(delete))
        .route("/v1/volumes/{name}/resize", post(resize))
        .route("/v1/volumes/{name}/erase", post(erase))
        .route("/v1/volumes/{name}/services", put(set))
        .route("/v1/volumes/{name}/snapshots", post(snapshot))
        .route("/v1/volumes/{name}/clones", post(clone))
}

fn pools() -> Router<Arc<Daemon>> {
    let list = |State(d): App| away(d, |d| Ok(Json(view::pools(d))));
    let create = |State(d): App, Body(ask): Body<CreatePool>| done(d, move |d| pools::create_pool(d, &ask));
    let show = |State(d): App, Path(name): Path<String>| {
        away(d, move |d| {
            view::pools(d).into_iter().find(|p| p.name == name).map(Json).ok_or_else(|| {
                Refusal::not_found(
                    format!("there is no pool {name}"),
                    "see `caisson pool list` for what there is",
                )
            })
        })
    };
    let remove = |State(d): App, Path(name): Path<String>| done(d, move |d| pools::remove_pool(d, &name));
    let grow = |State(d): App, Path(name): Path<String>, Body(ask): Body<Grow>| {
        done(d, move |d| pools::grow_pool(d, &name, &ask))
    };
    let add = |State(d): App, Path(name): Path<String>, Body(ask): Body<DeviceAsk>| {
        done(d, move |d| pools::add_device(d, &name, &ask))
    };
    let scrub = |State(d): App, Path(name): Path<String>, Body(ask): Body<ScrubAsk>| {
        done(d, move |d| pools::scrub_pool(d, &name, &ask))
    };
    Router::new()
        .route("/v1/pools", get(list).post(create))
        .route("/v1/pools/{name}", get(show).delete(remove))
        .route("/v1/pools/{name}/grow", post(grow))
        .route("/v1/pools/{name}/devices", post(add))
        .route("/v1/pools/{name}/scrub", post(scrub))
}

fn keys() -> Router<Arc<Daemon>> {
    let all = |State(d): App| away(d, |d| keys::status(d, None).map(Json));
    let one = |State(d): App, Path(name): Path<String>| {
        away(d, move |d| keys::status(d, Some(&name)).map(|mut k| Json(k.remove(0))))
    };
    let add = |State(d): App, Path(name): Path<String>, Body(ask): Body<KeyAsk>| {
        done(d, move |d| keys::add(d, &name, &ask))
    };
    let remove = |State(d): App, Path(name): Path<String>, Body(ask): Body<KeyAsk>| {
        done(d, move |d| keys::remove(d, &name, &ask))
    };
    let rotate = |State(d): App, Path(name): Path<String>, Body(ask): Body<Rotate>| {
        done(d, move |d| keys::rotate(d, &name, &ask))
    };
    let retry = |State(d): App, Path(name): Path<String>| done(d, move |d| keys::retry(d, &name));
    let export = |State(d): App, Path(name): Path<String>, Body(ask): Body<Export>| {
        away(d, move |d| keys::export_recovery(d, &name, &ask).map(Json))
    };
    let create = |State(d): App, Path(name): Path<String>, Body(ask): Body<DomainAsk>| {
        done(d, move |d| keys::create_domain(d, &name, &ask))
    };
    let epoch = |State(d): App, Path(name): Path<String>, Body(ask): Body<DomainAsk>| {
        done(d, move |d| keys::rotate_epoch(d, &name, &ask))
    };
    let destroy = |State(d): App, Path(name): Path<String>, Body(ask): Body<Destroy>| {
        done(d, move |d| keys::destroy_domain(d, &name, &ask))
    };
    let revoke = |State(d): App, Path(name): Path<String>, Body(ask): Body<RootAsk>| {
        done(d, move |d| keys::revoke_root(d, &name, &ask))
    };
    let end = |State(d): App, Path(name): Path<String>, Body(ask): Body<RootAsk>| {
        done(d, move |d| keys::destroy_root(d, &name, &ask))
    };
    Router::new()
        .route("/v1/pools/{name}/keys/revoke", post(revoke))
        .route("/v1/pools/{name}/keys/destroy", post(end))
        .route("/v1/pools/{name}/domains", post(create))
        .route("/v1/pools/{name}/domains/rotate", post(epoch))
        .route("/v1/pools/{name}/domains/destroy", post(destroy))
        .route("/v1/keys", get(all))
        .route("/v1/pools/{name}/keys", get(one).post(add).delete(remove))
        .route("/v1/pools/{name}/keys/rotate", post(rotate))
        .route("/v1/pools/{name}/keys/retry", post(retry))
        .route("/v1/pools/{name}/keys/recovery", post(export))
}

fn subsystems() -> Router<Arc<Daemon>> {
    let list = |State(d): App| away(d, |d| Ok(Json(view::subsystems(d))));
    let create =
        |State(d): App, Body(ask): Body<CreateSubsystem>| done(d, move |d| verbs::create_subsystem(d, &ask));
    let show = |State(d): App, Path(nqn): Path<String>| {
        away(d, move |d| {
            view::subsystems(d).into_iter().find(|s| s.nqn == nqn).map(Json).ok_or_else(|| {
                Refusal::not_found(
                    format!("there is no subsystem {nqn}"),
                    "see `caisson subsystem list` for what there is",
                )
            })
        })
    };
    let delete = |State(d): App, Path(nqn): Path<String>| done(d, move |d| verbs::delete_subsystem(d, &nqn));
    let erase = |State(d): App, Path(nqn): Path<String>, Body(ask): Body<Switch>| {
        done(d, move |d| verbs::allow_erase(d, &nqn, ask.on))
    };
    let any = |State(d): App, Path(nqn): Path<String>, Body(ask): Body<Switch>| {
        done(d, move |d| verbs::allow_any(d, &nqn, ask.on))
    };
    let add = |State(d): App, Path(nqn): Path<String>, Body(ask): Body<AddNamespace>| {
        let added = away(d, move |d| verbs::add_namespace(d, &nqn, &ask));
        async {
            added
                .await
                .map(|(did, n)| Json(Done { changed: did == Did::Changed, nsid: Some(n), ..Done::default() }))
        }
    };
    let remove = |State(d): App, Path((nqn, nsid)): Path<(String, u32)>| {
        done(d, move |d| verbs::remove_namespace(d, &nqn, nsid))
    };
    let protect = |State(d): App, Path((nqn, nsid)): Path<(String, u32)>, Body(ask): Body<Switch>| {
        done(d, move |d| verbs::write_protect(d, &nqn, nsid, ask.on))
    };
    let allow = |State(d): App, Path((nqn, host)): Path<(String, String)>| {
        done(d, move |d| verbs::allow_host(d, &nqn, &host))
    };
    let bar = |State(d): App, Path((nqn, host)): Path<(String, String)>| {
        done(d, move |d| verbs::remove_host(d, &nqn, &host))
    };
    Router::new()
        .route("/v1/subsystems", get(list).post(create))
        .route("/v1/subsystems/{nqn}", get(show).delete(delete))
        .route("/v1/subsystems/{nqn}/allow-any", put(any))
        .route("/v1/subsystems/{nqn}/allow-erase", put(erase))
        .route("/v1/subsystems/{nqn}/namespaces", post(add))
        .route("/v1/subsystems/{nqn}/namespaces/{nsid}", axum::routing::delete(remove))
        .route("/v1/subsystems/{nqn}/namespaces/{nsid}/write-protect", put(protect))
        .route("/v1/subsystems/{nqn}/hosts/{host}", put(allow).delete(bar))
}

fn addresses() -> Router<Arc<Daemon>> {
    let listeners = |State(d): App| away(d, |d| Ok(Json(view::listeners(d))));
    let listen = |State(d): App, Body(ask): Body<AddListener>| done(d, move |d| verbs::add_listener(d, &ask));
    let unlisten = |State(d): App, Path(a): Path<String>| done(d, move |d| verbs::remove_listener(d, &a));
    let referrals = |State(d): App| away(d, |d| Ok(Json(view::referrals(d))));
    let refer = |State(d): App, Body(ask): Body<AddReferral>| done(d, move |d| verbs::add_referral(d, &ask));
    let unrefer = |State(d): App, Path(a): Path<String>| done(d, move |d| verbs::remove_referral(d, &a));
    Router::new()
        .route("/v1/listeners", get(listeners).post(listen))
        .route("/v1/listeners/{address}", axum::routing::delete(unlisten))
        .route("/v1/referrals", get(referrals).post(refer))
        .route("/v1/referrals/{address}", axum::routing::delete(unrefer))
}

/// `GET /metrics`, for both sockets.
pub fn metrics_router(daemon: Arc<Daemon>) -> Router {
    let scrape = |State(d): App| async {
        let text = away(d, metrics::text).await?;
        Ok::<_, Refusal>(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
    };
    Router::new().route("/metrics", get(scrape)).with_state(daemon)
}

/// The whole API.
pub fn router(daemon: Arc<Daemon>) -> Router {
    let status = |State(d): App| away(d, |d| Ok(Json(view::status(d))));
    let connections = |State(d): App| away(d, |d| Ok(Json(view::connections(d))));
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/connections", get(connections))
        .merge(pools())
        .merge(keys())
        .merge(volumes())
        .merge(subsystems())
        .merge(addresses())
        .with_state(Arc::clone(&daemon))
        .merge(metrics_router(daemon))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .fallback(|uri: axum::http::Uri| async move {
            Refusal::not_found(
                format!("there is no {}", uri.path()),
                "see docs/management.md for the paths there are",
            )
        })
        .method_not_allowed_fallback(|uri: axum::http::Uri| async move {
            Refusal::invalid(
                format!("{} does not take this method", uri.path()),
                "see docs/management.md for the methods there are",
            )
        })
}

/// Binds the management socket: mode 0600 from the first moment, in the place of one that nobody serves any more.
///
/// # Errors
/// Another process serves it; the system's.
pub fn bind(path: &std::path::Path) -> Result<UnixListener, Refusal> {
    let fail = |e: &std::io::Error| {
        Refusal::system(format!("the management socket {} cannot be made", path.display()), e)
    };
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(Refusal::invalid(
            format!("the management socket's path has more than {SOCKET_PATH_MAX} bytes: {}", path.display()),
            "name a shorter one with --socket, or with [management] socket in the configuration file",
        ));
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Refusal::busy(
                format!("another target serves the management socket {}", path.display()),
                "stop it, or give this one another socket with --socket or [management] socket",
            ));
        }
        std::fs::remove_file(path).map_err(|e| fail(&e))?;
    }
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(|e| fail(&e))?;
    }
    // Bound under a name that nobody knows, and renamed when its mode is right: nobody can connect in between. The name
    // is short, as the path of a socket has little room.
    let hidden = path.with_file_name(format!(".c{:x}", std::process::id()));
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(|e| fail(&e))?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&hidden, path))
        .map_err(|e| {
            let _ = std::fs::remove_file(&hidden);
            fail(&e)
        })?;
    Ok(listener)
}
