"""The guards that keep the promises: for each, a fault to plant in its place and the tests that must fail then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """A condition or a statement that a promise depends on."""

    name: str
    file: str
    text: str  # occurs once in `file`
    fault: str  # what somebody might write there by mistake
    tests: str  # paths, separated by spaces


GUARDS = (
    Guard(
        "a pickle of Whisper that calls something is refused at submit", "models/sources/inspection/whisper_pickle.py",
        'opcode == "GLOBAL" and argument not in _CALLS', "False",
        "tests/toolchains/trtllm/test_whisper.py",
    ),
    Guard(
        "a pickle of Whisper is loaded for tensors alone", "toolchains/trtllm/commands/whisper_weights.py",
        "weights_only=True", "weights_only=False",
        "tests/toolchains/trtllm/test_whisper.py",
    ),
    Guard(
        "a TorchScript archive is no Whisper", "toolchains/trtllm/commands/whisper_weights.py",
        'if any(name == "constants.pkl" or name.startswith("code/") for name in members):', "if False:",
        "tests/toolchains/trtllm/test_whisper.py",
    ),
    Guard(
        "a pickle that is the only form of the weights needs the sandbox", "workers/stage/refusals.py",
        "if work.job.stage is Stage.CONVERT and facts.has_pickle and not facts.has_safetensors:", "if False:",
        "tests/workers/stage/test_refusals.py",
    ),
    Guard(
        "a page of builds reads the fleet once", "models/queries/outlook.py",
        "@cached_property\n    def _live(", "@property\n    def _live(",
        "tests/scale",
    ),
    Guard(
        "a model at any revision is found by an index in every locale", "models/catalogue/expressions.py",
        "of_model = text_before_at(column) == model", 'of_model = column.startswith(model, autoescape=True)',
        "tests/scale",
    ),
    Guard(
        "positions of a page add up", "models/queries/outlook.py",
        "positions[key] = in_front[queue]", "positions[key] = count",
        "tests/scale",
    ),
    Guard(
        "engines of one instant are all listed", "models/queries/engines.py",
        "tuple_(EngineRow.created_at, EngineRow.key) < tuple_(literal(time, UtcDateTime()), literal(key))",
        "EngineRow.created_at < time",
        "tests/models/queries/test_listing.py",
    ),
    Guard(
        "quantized blocks that a rank would have in part are refused", "toolchains/trtllm/checks/precisions/shards.py",
        "if width % (ranks * multiple):", "if False:",
        "tests/toolchains/trtllm/field",
    ),
    Guard(
        "an older GPU gets no fused attention that it does not have", "toolchains/trtllm/normalization/attention.py",
        "_TURING_SM <= context.sm < _AMPERE_SM", "False",
        "tests/toolchains/trtllm/field",
    ),
    Guard(
        "an unknown last error of TensorRT-LLM is not given the cause of an earlier one",
        "toolchains/trtllm/logs/failures.py",
        "            return None\n", "            continue\n",
        "tests/toolchains/trtllm/logs/test_error_corpus.py",
    ),
    Guard(
        "calibration data have the name that a script of TensorRT-LLM knows", "toolchains/trtllm/commands/plan.py",
        "planned.insert(0, Command(name_argv, span=(0.0, 0.0)))", "pass",
        "tests/toolchains/trtllm/field/test_corpus.py",
    ),
    Guard(
        "a misspelt setting is refused", "models/settings.py",
        "problems.append(unknown_setting(variable, PREFIX, names))", "pass",
        "tests/models/test_settings.py",
    ),
    Guard(
        "a refused setting shows no password of a URL", "models/setting_problems.py",
        ' or "@" in text', "",
        "tests/models/test_settings.py",
    ),
    Guard(
        "an empty variable is not set", "models/settings.py",
        "                if stripped:\n", "                if True:\n",
        "tests/models/test_settings.py",
    ),
    Guard(
        "a redirect names no inner host", "api/app.py",
        "redirect_slashes=False", "redirect_slashes=True",
        "tests/api/http/test_proxy.py",
    ),
    Guard(
        "a public path is kept behind a proxy that passes it on", "api/http/public_path.py",
        'path = path.removeprefix(self._public_path) or "/"', "pass",
        "tests/api/http/test_proxy.py",
    ),
    Guard(
        "two farms do not share a state folder", "local/farm.py",
        'if not stack.enter_context(locked_if_free(self.state / "farm")):', "if False:",
        "tests/local/test_start.py",
    ),
    Guard(
        "a worker that cannot write into the store does not start", "workers/__main__.py",
        "        require_folder_store(settings)\n", "",
        "tests/workers/test_start.py",
    ),
    Guard(
        "a submit is accepted whatever the broker answers", "models/queue/broker.py",
        "except Exception as error:  # kombu wraps some errors of redis-py and passes others on",
        "except OSError as error:",
        "tests/models/queue/test_broker.py",
    ),
    Guard(
        "the broker's certificate is verified", "models/queue/broker_url.py",
        'options.get("ssl_cert_reqs", "required")', 'options.get("ssl_cert_reqs", "none")',
        "tests/models/queue/test_broker_url.py tests/models/queue/test_broker.py",
    ),
    Guard(
        "a broker's URL with an unescaped character is refused", "models/queue/broker_url.py",
        "_WRONG_ESCAPE.search(userinfo)", "False",
        "tests/models/queue/test_broker_url.py",
    ),
    Guard(
        "a fault of the broker ends no worker", "workers/consumer.py",
        "self.channel_errors = (Exception,)", "self.channel_errors = ()",
        "tests/farm/test_broker_faults.py",
    ),
    Guard(
        "readiness writes to the broker", "models/queue/broker.py",
        "channel.client.set(key, 1, ex=_PROBE_SECONDS)", "pass",
        "tests/models/queue/test_broker.py",
    ),
    Guard(
        "a late result is fenced by its attempt", "models/lifecycle/transitions.py",
        "where.append(ActionRow.attempt == attempt)", "pass",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "an action moves only from a state that may go there", "models/lifecycle/transitions.py",
        "ActionRow.state.in_(sources(to, among))]", "ActionRow.state.is_not(None)]",
        "tests/models/lifecycle/test_races.py tests/models/lifecycle/test_concurrent_pairs.py",
    ),
    Guard(
        "a lost lease cannot be renewed", "models/lifecycle/leases.py",
        "update(ActionRow).where(*_leased(claim))", "update(ActionRow).where(ActionRow.key == claim.key)",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "only an expired lease is taken back", "models/lifecycle/leases.py",
        "ActionRow.state == ActionState.RUNNING, ActionRow.lease_expires_at < now())",
        "ActionRow.state == ActionState.RUNNING)",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "an action fails after its last try", "models/lifecycle/leases.py",
        "tries_left = claim.tries < max_tries", "tries_left = True",
        "tests/models/lifecycle/test_retry_policy.py tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "the sweep releases only waiting actions", "models/lifecycle/recovery.py",
        "is_waiting = ActionRow.state == ActionState.WAITING", "is_waiting = ActionRow.state.is_not(None)",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "an action that was just announced is not announced again", "models/lifecycle/recovery.py",
        ".where(ActionRow.key.in_(oldest), *_quiet())", ".where(ActionRow.queue == queue)",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "an existing engine is not built again", "models/lifecycle/submission.py",
        "if request.build.key not in served}", "}",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "an engine that is published during a submit is not built again", "models/lifecycle/submission.py",
        "if key in published:", "if False:",
        "tests/models/lifecycle/test_races.py",
    ),
    Guard(
        "a cancel spares an action that another build waits for", "models/lifecycle/transitions.py",
        "or is_needed(session, key):", "or False:",
        "tests/models/lifecycle/test_lifecycle.py",
    ),
    Guard(
        "publishing checks that the store still has the bytes", "workers/runner.py",
        "require_stored(self.tools.store, blob_sizes(manifest) | dict([log_blob]))", "pass",
        "tests/farm/test_garbage_collection.py",
    ),
    Guard(
        "an upload is compared with the server's size and checksum before it is published", "models/store/s3.py",
        "if (stored.size, bare_etag(stored.etag)) != (size, etag):", "if False:",
        "tests/models/store/test_s3.py",
    ),
    Guard(
        "bytes are compared with their digest", "enginefarm/contract/digest.py",
        "if not hmac.compare_digest(actual, digest):", "if False:",
        "tests/models/store/test_store.py",
    ),
    Guard(
        "a pulled file is compared with its manifest", "enginefarm/transfer/partial_file.py",
        "if not hmac.compare_digest(actual, self.entry.digest):", "if False:",
        "tests/enginefarm/transfer/test_partial_file.py tests/enginefarm/transfer/test_pull.py",
    ),
    Guard(
        "a submit is committed before it is answered", "api/submits/new_submits.py",
        "with self._database.write() as session:", "with self._database.read() as session:",
        "tests/farm/test_cached_submits.py",
    ),
    Guard(
        "a cached submit is recorded before it is answered", "api/planning/cached_submits.py",
        "with database.write() as session:", "with database.read() as session:",
        "tests/farm/test_cached_submits.py",
    ),
    Guard(
        "the fast path answers only callers who may submit", "api/builds/fast_submits.py",
        "if caller is None or access.Scope.SUBMIT not in caller.scopes:", "if caller is None:",
        "tests/api/test_fast_submits.py",
    ),
    Guard(
        "the fast path does not answer with a withdrawn engine", "models/lifecycle/cached_builds.py",
        "AND engines.quarantined_at IS NULL", "",
        "tests/api/test_fast_submits.py",
    ),
    Guard(
        "the fast path plans again when the model changed", "api/planning/cached_submits.py",
        "cached.fleet is fleet and cached.model == model", "cached.fleet is fleet",
        "tests/api/test_fast_submits.py",
    ),
    Guard(
        "two submits at once wait for each other at the first action", "models/lifecycle/action_rows.py",
        'missing = sorted(rows, key=itemgetter("key"))', "missing = list(rows)",
        "tests/models/lifecycle/test_submits_together.py",
    ),
    Guard(
        "a blob that is referenced again is not deleted", "models/retention/blob_gc.py",
        "BlobRow.digest == digest, _REFERRED)).first() is not None:",
        "BlobRow.digest == digest, _REFERRED)).first() == 0:",
        "tests/models/retention/test_blob_gc.py",
    ),
    Guard(
        "a withdrawn engine is not served", "models/catalogue/visibility.py",
        "SERVED = EngineRow.quarantined_at.is_(None)", "SERVED = EngineRow.key.is_not(None)",
        "tests/models/incidents/test_withdrawal.py",
    ),
    Guard(
        "a worker that cannot renew its lease ends its programs before the lease expires",
        "workers/reporting/heartbeat.py",
        "if self._clock() - self._renewed > self._lease * _GIVE_UP:", "if False:",
        "tests/workers/reporting/test_heartbeat.py",
    ),
    Guard(
        "an endless header ends at a limit", "api/http/connections.py",
        "if self._overhead > MAX_HEAD and not self._is_deaf:", "if False:",
        "tests/attack/test_connections.py",
    ),
    Guard(
        "a head that comes at once has a limit", "api/http/connections.py",
        "if size > MAX_HEAD:", "if False:",
        "tests/attack/test_connections.py",
    ),
    Guard(
        "a slow request ends after seconds", "api/http/connections.py",
        "self._deadline = self.loop.time() + seconds", "self._deadline = self.loop.time() + 1e9",
        "tests/attack/test_connections.py",
    ),
    Guard(
        "one address has a limited number of connections", "api/http/connections.py",
        "if self._by_peer[peer] >= self._most_per_peer and not self._is_proxy(peer):", "if False:",
        "tests/attack/test_connections.py",
    ),
    Guard(
        "pipelined requests are limited", "api/http/connections.py",
        "if len(self.pipeline) >= MAX_PIPELINED:", "if False:",
        "tests/attack/test_connections.py",
    ),
    Guard(
        "a client that reads nothing is cut", "api/http/connections.py",
        "self._watch_stall(self.transport.get_write_buffer_size())", "pass",
        "tests/attack/test_connections.py",
    ),
    Guard(
        "one caller does not take all threads of a lane", "api/lanes.py",
        "if self._free and self._running[caller] < self._per_caller and caller not in self._waiting:", "if self._free:",
        "tests/api/test_lanes.py tests/attack/test_starvation.py",
    ),
    Guard(
        "the queue of a lane is bounded", "api/lanes.py",
        "if len(queue) >= self._most_waiting:", "if False:",
        "tests/api/test_lanes.py tests/attack/test_starvation.py",
    ),
    Guard(
        "a submit whose client left is given up", "api/planning/resolutions.py",
        "                task.cancel()\n", "",
        "tests/attack/test_starvation.py",
    ),
    Guard(
        "watchers of a build share their reads", "api/builds/streaming.py",
        "control.watched_reads.read(build_id,", "control.watched_reads.read(object(),",
        "tests/attack/test_starvation.py",
    ),
    Guard(
        "a key has a limited number of watchers", "api/watching/sharing.py",
        "if self._watching[caller] >= self._most:", "if False:",
        "tests/attack/test_starvation.py",
    ),
    Guard(
        "a body without an API key is not read", "api/bodylimit.py",
        "                await any_caller(request)\n", "                pass\n",
        "tests/attack/test_starvation.py",
    ),
    Guard(
        "a body that stops is ended", "api/bodylimit.py",
        "async with asyncio.timeout(min(SILENT_SECONDS, patience)):", "async with asyncio.timeout(None):",
        "tests/attack/test_starvation.py",
    ),
    Guard(
        "an answer has a limited number of problems", "enginefarm/contract/spec.py",
        "for details in errors[:MAX_PROBLEMS]:", "for details in errors:",
        "tests/attack/test_starvation.py",
    ),
    Guard(
        "a route requires its scope", "api/auth.py",
        "if self._scope not in caller.scopes:", "if False:",
        "tests/api/access/test_access.py",
    ),
    Guard(
        "the secret of an API key is checked", "models/security/api_keys.py",
        "return active if matches else None", "return active",
        "tests/api/access/test_access.py",
    ),
    Guard(
        "the secret of a key that is looked up in the catalogue is checked", "models/security/api_keys.py",
        "if row is None or not matches:", "if row is None:",
        "tests/models/security/test_api_keys.py",
    ),
    Guard(
        "an expired key is not accepted", "models/security/api_keys.py",
        "or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now()))", "or_(ApiKeyRow.id.is_not(None)))",
        "tests/models/security/test_api_keys.py",
    ),
    Guard(
        "a replaced key ends with its overlap", "models/security/api_keys.py",
        "values(replaced_at=now(), expires_at=earlier_end)", "values(replaced_at=now())",
        "tests/models/security/test_api_keys.py",
    ),
    Guard(
        "a local farm has a key before its API starts", "local/farm.py",
        "self.api_key = api_key_of(database, self.api_key_file)", "self.api_key = None",
        "tests/local/test_api_key.py::test_a_local_farm_serves_nobody_without_its_key",
    ),
    Guard(
        "only its user can read the key of a local farm", "local/api_key.py",
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)", "os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)",
        "tests/local/test_api_key.py::test_a_lost_key_is_revoked_and_replaced",
    ),
    Guard(
        "browsers are told not to frame or sniff answers", "api/app.py",
        "    app.add_middleware(BrowserHeaders)", "    pass",
        "tests/api/access/test_access.py::test_every_answer_tells_browsers_not_to_frame_sniff_or_embed_it",
    ),
    Guard(
        "failed sign-ins are limited", "api/access/failed_sign_ins.py",
        "            if wait > 0:", "            if wait > 1e9:",
        "tests/attack/test_api_keys.py",
    ),
    Guard(
        "an active key is accepted however many wrong ones come from its address", "api/auth.py",
        "    if caller is None:\n", "    if caller is None or True:\n",
        "tests/attack/test_api_keys.py",
    ),
    Guard(
        "a password that a browser remembers serves pages of its origin alone", "api/auth.py",
        "        require_own_page(request.headers)\n", "",
        "tests/api/access/test_access.py",
    ),
    Guard(
        "an open farm refuses another host", "api/access/local_requests.py",
        "if match and is_loopback(match[\"name\"]) and", "if match and",
        "tests/attack/test_open_mode.py::test_another_host_is_refused",
    ),
    Guard(
        "a rebound name does not reach an open farm from a browser", "api/access/local_requests.py",
        "    _require_loopback_host(headers, request.scope[\"server\"][1])\n", "",
        "tests/attack/test_open_mode.py::test_dns_rebinding_reaches_nothing",
    ),
    Guard(
        "an open farm refuses pages of other origins", "api/access/local_requests.py",
        "    _require_same_origin(headers)\n", "",
        "tests/attack/test_open_mode.py::test_a_web_page_reaches_nothing",
    ),
    Guard(
        "an open farm refuses reads by pages of other origins, which have no Origin", "api/access/local_requests.py",
        "if site not in (\"same-origin\", \"none\"):", "if False:",
        "tests/attack/test_open_mode.py::test_a_link_on_a_web_page_leads_to_a_refusal",
    ),
    Guard(
        "an open farm refuses proxies", "api/access/local_requests.py",
        "if name in _OF_PROXIES or name.startswith(_OF_PROXIES_START):", "if False:",
        "tests/attack/test_open_mode.py::test_a_request_through_a_proxy_is_refused",
    ),
    Guard(
        "an open farm refuses the bodies of forms", "api/access/local_requests.py",
        "    _require_json(request)\n", "",
        "tests/attack/test_open_mode.py::test_a_body_that_a_form_could_send_is_refused",
    ),
    Guard(
        "an open farm closes with the first key", "api/access/open_mode.py",
        "if a_key_exists and self.was_open:", "if False:",
        "tests/attack/test_open_mode.py::test_the_first_key_closes_every_process",
    ),
    Guard(
        "no farm starts open behind a proxy", "api/app.py",
        "if settings.public_url is not None:", "if False:",
        "tests/api/access/test_access.py::test_a_farm_without_keys_starts_only_on_loopback_and_without_a_proxy",
    ),
    Guard(
        "the index says which weights count", "models/sources/inspection/weights.py",
        "shards = frozenset(weight_map.values())\n", "shards = frozenset(filter(_SHARD.fullmatch, names))\n",
        "tests/models/sources/inspection/test_model_files.py",
    ),
    Guard(
        "a Git LFS pointer is no weights", "models/sources/inspection/damage.py",
        "return _POINTER_START.match(start) is not None", "return False",
        "tests/models/sources/inspection/test_inspector.py",
    ),
    Guard(
        "a truncated file of weights is refused at submit", "models/sources/inspection/safetensors_header.py",
        "if covered > data_bytes:", "if False:",
        "tests/models/sources/inspection/test_safetensors_header.py",
    ),
    Guard(
        "an index leads to the model's own files only", "models/sources/inspection/weights.py",
        "if not SAFE_NAME.fullmatch(name):", "if False:",
        "tests/models/sources/inspection/test_model_files.py",
    ),
    Guard(
        "a model outside the allowed folders is not read", "models/sources/confined_folders.py",
        "return any(path.is_relative_to(root) for root in self._roots)", "return True",
        "tests/models/sources/test_folder_source.py",
    ),
    Guard(
        "a link is valid only for the file that was signed", "models/store/links.py",
        "if not hmac.compare_digest(self._sign(digest, filename, expires).encode(), signature.encode()):", "if False:",
        "tests/models/store/test_links.py",
    ),
    Guard(
        "a node with trusted keys checks the engine's signature", "enginefarm/trust/signature_policy.py",
        "        if self.keys:\n", "        if not self.keys:\n",
        "tests/enginefarm/trust/test_signature_policy.py",
    ),
    Guard(
        "a name with control, bidi or invisible characters is refused", "enginefarm/contract/portable.py",
        "        if is_unsafe(character):", "        if character == chr(0):",
        "tests/enginefarm/contract/test_portable.py",
    ),
    Guard(
        "an answered engine is the one that was asked for", "enginefarm/wire/engine_binding.py",
        "if engine.key != key:", "if False:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "the documents of an answered engine hash to its key", "enginefarm/wire/engine_binding.py",
        "if actual != expected:", "if False:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "the record of an engine agrees with the documents of its key", "enginefarm/wire/engine_binding.py",
        "if stated != in_key:", "if False:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "the start of a key is not asked for as a build", "enginefarm/client/engine_lookup.py",
        "if not is_start_of_key or _BUILD_ID.fullmatch(name):", "if True:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "a resolved engine meets the requirements", "enginefarm/client/answers.py",
        "if suitability.obstacles:", "if False:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "the record of a signed engine states what was signed", "enginefarm/trust/signature_policy.py",
        "if getattr(engine, field) != value:", "if False:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "readers of the catalogue do not see API keys", "migrations/roles.py",
        '"api_keys": TableRights(api=_WRITE, readonly=Grant())', '"api_keys": TableRights(api=_WRITE)',
        "tests/migrations/test_roles.py",
    ),
    Guard(
        "a worker's account changes only its own leases", "migrations/roles.py",
        "update_old=f\"{_own_worker('actions.worker_id')} OR (", "update_old=f\"true OR (",
        "tests/attack/test_privileges.py",
    ),
    Guard(
        "row-level security is switched on", "migrations/roles.py",
        'yield f"ALTER TABLE {table.name} ENABLE ROW LEVEL SECURITY"', 'yield "SELECT 1"',
        "tests/attack/test_privileges.py",
    ),
    Guard(
        "a compressed answer of a hub is refused", "models/sources/hub/http_client.py",
        'is_compressed = response.headers.pop("Content-Encoding", "identity").lower() != "identity"',
        "is_compressed = False",
        "tests/attack/test_outbound.py",
    ),
    Guard(
        "an answer of a hub has a largest size", "models/sources/hub/http_client.py",
        "if self._longest_error is None and length > self._limits.max_bytes:", "if length > 1 << 27:",
        "tests/attack/test_outbound.py",
    ),
    Guard(
        "an answer of a hub ends in time", "models/sources/hub/http_client.py",
        "        if remaining <= 0:\n", "        if False:\n",
        "tests/attack/test_outbound.py",
    ),
    Guard(
        "a hub leads to public addresses only", "models/sources/hub/http_client.py",
        "        if not allowed:\n", "        if not addresses:\n",
        "tests/attack/test_outbound.py tests/models/sources/test_hub_client.py",
    ),
    Guard(
        "the address that was checked is the one that is called", "models/sources/hub/http_client.py",
        "super().connect_tcp(address, port,", "super().connect_tcp(host, port,",
        "tests/models/sources/test_hub_client.py",
    ),
    Guard(
        "the hub's token goes to the hub only", "models/sources/hub/http_client.py",
        "        if host != self._host:\n            return False\n", "        return True\n",
        "tests/models/sources/test_hub_client.py",
    ),
    Guard(
        "a link is no directory to write into", "enginefarm/transfer/new_files.py",
        "if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():", "if False:",
        "tests/enginefarm/transfer/test_triton_layout.py tests/enginefarm/transfer/test_new_files.py",
    ),
    Guard(
        "a layout's files are outside the engine", "enginefarm/transfer/triton_layout.py",
        "if in_engine or path in folders or path in layout.folders:", "if False:",
        "tests/enginefarm/transfer/test_triton_layout.py",
    ),
    Guard(
        "a new file replaces no link's target", "enginefarm/transfer/new_files.py",
        "    path.unlink(missing_ok=True)  # the link itself, not what it leads to\n    return os.fdopen(os.open(path, "
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), \"wb\")",
        "    return path.open(\"wb\")",
        "tests/enginefarm/transfer/test_new_files.py",
    ),
    Guard(
        "an answer of an S3 server has a largest size", "models/outbound/limited_answers.py",
        "        if len(body) > MAX_ANSWER_BYTES:\n", "        if len(body) > 1 << 27:\n",
        "tests/attack/test_outbound.py",
    ),
    Guard(
        "an object of an S3 server states its length", "models/outbound/limited_answers.py",
        'if response.headers.get("Transfer-Encoding") or not length.isdecimal():', "if False:",
        "tests/attack/test_outbound.py",
    ),
    Guard(
        "an answer of an S3 server ends in time", "models/outbound/limited_answers.py",
        "self.deadline = min(time.monotonic() + ANSWER_SECONDS, time_limit.deadline())", "self.deadline = math.inf",
        "tests/attack/test_outbound.py",
    ),
    Guard(
        "all that a submit asks of an S3 server ends in time", "models/sources/bucket_source.py",
        "with time_limit.within(RESOLVE_SECONDS):", "if True:",
        "tests/models/sources/test_bucket_answers.py",
    ),
    Guard(
        "all that a submit asks of a hub ends in time", "models/sources/hub/model_source.py",
        "with time_limit.within(RESOLVE_SECONDS):", "if True:",
        "tests/models/sources/test_bucket_answers.py",
    ),
    Guard(
        "nobody waits for a name server without a limit", "models/outbound/uninterruptible.py",
        "return outcome.result(max(0.0, seconds))", "return outcome.result()",
        "tests/api/test_hanging_servers.py",
    ),
    Guard(
        "a weak ETag is the ETag", "models/outbound/s3_answers.py",
        '.removeprefix("W/")', "",
        "tests/models/sources/test_bucket_answers.py",
    ),
    Guard(
        "a web page is no blob", "models/store/s3.py",
        'if (content_type or "").startswith("text/html"):', "if False:",
        "tests/models/sources/test_bucket_answers.py",
    ),
    Guard(
        "an answer of a farm has a largest size", "enginefarm/client/answer_body.py",
        "        if len(body) > max_bytes:\n", "        if len(body) > 1 << 27:\n",
        "tests/attack/test_outbound.py",
    ),
    Guard(
        "an answer of a farm ends in time", "enginefarm/client/answer_body.py",
        "is_late = time.monotonic() > deadline", "is_late = False",
        "tests/attack/test_outbound.py",
    ),
    Guard(
        "pages of a farm come forward", "enginefarm/client/farm.py",
        "if page.next_cursor == cursor or not page.items:", "if False:",
        "tests/attack/test_outbound.py",
    ),
    Guard(
        "what a command prints is safe for a terminal", "enginefarm/cli/output.py",
        "click.echo(safe_text(str(text)), err=err)", "click.echo(str(text), err=err)",
        "tests/enginefarm/cli/test_terminal_text.py",
    ),
    Guard(
        "messages on stderr are safe for a terminal", "enginefarm/cli/output.py",
        "Text(safe_text(text))", "Text(text)",
        "tests/enginefarm/cli/test_terminal_text.py",
    ),
    Guard(
        "a carriage return hides nothing", "enginefarm/cli/terminal_text.py",
        '.replace("\\r", "\\n")', '.replace("\\r", "")',
        "tests/enginefarm/cli/test_terminal_text.py",
    ),
    Guard(
        "a model's own code runs in the sandbox", "workers/sandbox/isolation.py",
        "            if self.bwrap is None:\n", "            if True:\n",
        "tests/attack/test_sandbox.py",
    ),
    Guard(
        "a program has no network", "workers/sandbox/bubblewrap.py",
        '"--unshare-cgroup", "--unshare-net",', '"--unshare-cgroup",',
        "tests/workers/programs/test_child.py",
    ),
    Guard(
        "a program sees no file of the farm", "workers/sandbox/mount_view.py",
        'argv += ["--ro-bind", str(supervisor), str(SUPERVISOR)]',
        'argv += ["--bind", "/tmp", "/tmp", "--ro-bind", str(supervisor), str(SUPERVISOR)]',
        "tests/workers/sandbox/test_attacks.py",
    ),
    Guard(
        "a program does not choose what the next one of its stage finds mounted", "workers/sandbox/isolation.py",
        'temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=paths.scratch))',
        'temporary = paths.scratch / "tmp"\n        temporary.mkdir(exist_ok=True)',
        "tests/workers/sandbox/test_attacks.py",
    ),
    Guard(
        "what lies in a visible folder but belongs to the farm is hidden", "workers/sandbox/mount_view.py",
        "access[path] = Access.HIDDEN", "pass",
        "tests/workers/sandbox/test_mount_view.py",
    ),
    Guard(
        "kernel parameters are read-only for a worker that runs as root", "workers/sandbox/mount_view.py",
        'argv += ["--remount-ro", "/proc"]', "pass",
        "tests/workers/sandbox/test_attacks.py",
    ),
    Guard(
        "a program may not trace others", "workers/sandbox/seccomp.py",
        '"ptrace": (101, 117), ', "",
        "tests/workers/sandbox/test_seccomp.py",
    ),
    Guard(
        "a program may not make namespaces", "workers/sandbox/seccomp.py",
        'yield from _block(calls["clone"], 0, _deny_any_bit(_CLONE_NEW_NAMESPACE))', "pass",
        "tests/workers/sandbox/test_seccomp.py",
    ),
    Guard(
        "a program may not take the supervisor's CPU time", "workers/sandbox/seccomp.py",
        "_deny_values((_SUPERVISOR,)))", "_deny_values(()))",
        "tests/workers/sandbox/test_attacks.py",
    ),
    Guard(
        "no process reads the supervisor's memory", "workers/sandbox/supervisor.py",
        "prctl(PR_SET_DUMPABLE, 0)", "pass",
        "tests/workers/sandbox/test_attacks.py",
    ),
    Guard(
        "the worker kills from outside what its supervisor does not end", "workers/sandbox/launched.py",
        "                self._guard.kill()\n", "                pass\n",
        "tests/workers/sandbox/test_attacks.py",
    ),
    Guard(
        "the worker kills what a program left behind after it killed its supervisor", "workers/sandbox/guard.py",
        "while self._kill_orphans():", "while False:",
        "tests/workers/sandbox/test_attacks.py",
    ),
    Guard(
        "a fork bomb ends at its limit", "workers/sandbox/supervisor.py",
        "deadline = time.monotonic()\n            if deadline", "pass\n            if deadline",
        "tests/workers/sandbox/test_attacks.py",
    ),
    Guard(
        "zombies are reaped as they come", "workers/sandbox/supervisor.py",
        "pid, status = os.waitpid(-1, os.WNOHANG)", "pid, status = os.waitpid(self.pid, os.WNOHANG)",
        "tests/workers/sandbox/test_attacks.py",
    ),
    Guard(
        "a prepared sandbox is used only if one that is made now would be the same", "workers/sandbox/launched.py",
        "return identities(mounts) == self._files", "return True",
        "tests/workers/programs/test_standby.py",
    ),
    Guard(
        "without a complete sandbox no folder is prepared beside a running stage", "workers/programs/standby.py",
        "if self._isolation.complete:", "if True:",
        "tests/workers/programs/test_standby.py",
    ),
    Guard(
        "a sandbox that did not start fails the stage", "workers/programs/child.py",
        "if not report.started:", "if False:",
        "tests/workers/sandbox/test_attacks.py",
    ),
    Guard(
        "a required sandbox that is not to be had stops the worker", "workers/sandbox/choice.py",
        'if settings.sandbox == "required":', "if False:",
        "tests/workers/sandbox/test_choice.py",
    ),
    Guard(
        "addresses of clouds' own services are not public", "models/sources/hub/http_client.py",
        " and not _is_in(inner, _NOT_PUBLIC)", "",
        "tests/models/sources/test_hub_client.py",
    ),
    Guard(
        "an engine's row that cannot be read hides no other", "models/queries/engines.py",
        "except ValidationError as error:", "except ZeroDivisionError as error:",
        "tests/models/queries/test_listing.py",
    ),
    Guard(
        "a time that Python does not have stops nobody", "models/catalogue/timestamps.py",
        "except psycopg.DataError:", "except ZeroDivisionError:",
        "tests/models/fleet/test_roster.py",
    ),
    Guard(
        "a worker's row that cannot be read stops nobody", "models/fleet/roster.py",
        "        except ValidationError as error:\n", "        except ZeroDivisionError as error:\n",
        "tests/models/fleet/test_roster.py",
    ),
    Guard(
        "a model's own code cannot blame the worker", "workers/stage/run.py",
        "if runs_foreign_code(self.claim.work) and failure.fault is Fault.WORKER", "if False",
        "tests/workers/stage/test_run.py",
    ),
    Guard(
        "pickles of a second model are refused without the sandbox", "workers/stage/refusals.py",
        "return any(has_pickle(file.path for file in files.files)", "return any(not files",
        "tests/workers/stage/test_refusals.py",
    ),
    Guard(
        "a pickle in an older form is not loaded", "toolchains/trtllm/commands/tensors_only.py",
        "if file.read(len(ARCHIVE)) != ARCHIVE:", "if False:",
        "tests/toolchains/trtllm/commands/test_tensors_only.py",
    ),
    Guard(
        "foreign code is refused without the sandbox", "workers/stage/refusals.py",
        "and not tools.isolation.complete:", "and False:",
        "tests/workers/stage/test_refusals.py",
    ),
    Guard(
        "a recalled engine is refused", "enginefarm/wire/revocations.py",
        "if (entry.key, entry.manifest) == (key, manifest):", "if False:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "a list of recalled engines does not go back", "enginefarm/transfer/seen_revocations.py",
        "if last is not None and revocations.sequence < last.sequence:", "if False:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "a list of recalled engines has an age", "enginefarm/trust/revocations.py",
        "if age > max_age:", "if False:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "a list of recalled engines is of the engine's farm", "enginefarm/trust/signature_policy.py",
        "if revocations.farm == provenance.farm:", "if True:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "importable signers are the farm's setting", "enginefarm/trust/attestation.py",
        "both = [pem for pem, identity in zip(self.pems, self.ids, strict=True) if identity in named]",
        "both = list(pems)",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "a verification summary does not pass for provenance", "enginefarm/trust/attestation.py",
        "if statement.predicate_type != predicate_type:", "if False:",
        "tests/enginefarm/trust/test_golden_statements.py",
    ),
    Guard(
        "a verification summary names the attestation", "enginefarm/trust/verification_summary.py",
        'if digest not in [attestation.digest["sha256"] for attestation in stated.input_attestations]:', "if False:",
        "tests/enginefarm/trust/test_golden_statements.py",
    ),
    Guard(
        "a signed pull reads cached files again", "enginefarm/transfer/node_cache.py",
        "if digest.of_file(target, watch) != entry.digest:", "if False:",
        "tests/attack/test_trust.py",
    ),
    Guard(
        "a worker reads cached inputs again", "workers/inputs/node_inputs.py", "verify=True", "verify=False",
        "tests/workers/inputs/test_node_inputs.py",
    ),
    Guard(
        "a file that was changed since it was read is read again", "enginefarm/transfer/sharing/verified_files.py",
        "return name in self._states and self._states[name] == state_of(path)", "return name in self._states",
        "tests/workers/inputs/test_node_inputs.py",
    ),
    Guard(
        "without a complete sandbox no program gets a cached file itself", "workers/inputs/node_inputs.py",
        "return self._fetch(files, caller, may_link=self._may_link)",
        "return self._fetch(files, caller, may_link=True)",
        "tests/workers/inputs/test_node_inputs.py",
    ),
    Guard(
        "a fetched file that a program may write to is not the cached one", "workers/inputs/node_inputs.py",
        "self.cache.keep(file.target, entry, may_link=may_link, watch=watch)",
        "self.cache.keep(file.target, entry, watch=watch)",
        "tests/workers/inputs/test_node_inputs.py",
    ),
    Guard(
        "the output of a convert is read again before a build uses it", "workers/inputs/node_inputs.py",
        "entry, read_again=True, watch=watch)", "entry, watch=watch)",
        "tests/workers/inputs/test_node_inputs.py",
    ),
    Guard(
        "one worker of a host fetches a file", "workers/inputs/node_inputs.py",
        "with self.cache.locked(entry.digest, partial(caller.say, waiting_text), keep_waiting=partial(watch, 0)):",
        "if True:",
        "tests/workers/inputs/test_shared_fetches.py",
    ),
    Guard(
        "a cancel ends a worker that waits for another's fetch", "enginefarm/transfer/file_lock.py",
        "                keep_waiting()\n", "                pass\n",
        "tests/workers/inputs/test_shared_fetches.py",
    ),
    Guard(
        "programs do not see the cache", "workers/sandbox/choice.py",
        "        paths.append(cache)\n", "        pass\n",
        "tests/workers/sandbox/test_choice.py",
    ),
    Guard(
        "links and special files in an output are refused", "enginefarm/contract/regular_files.py",
        "if not stat.S_ISREG(status.st_mode):\n                        raise",
        "if False:\n                        raise",
        "tests/enginefarm/contract/test_regular_files.py",
    ),
    Guard(
        "no link is followed to a file of an output", "enginefarm/contract/regular_files.py",
        "_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK", "_FILE_FLAGS = os.O_RDONLY",
        "tests/enginefarm/contract/test_regular_files.py",
    ),
    Guard(
        "no link is followed to a folder of an output", "enginefarm/contract/regular_files.py",
        "_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW", "_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY",
        "tests/enginefarm/contract/test_regular_files.py",
    ),
    Guard(
        "a file of an output that was replaced after the listing is refused", "enginefarm/contract/regular_files.py",
        "if listed is not None and (status.st_ino, status.st_size) != (listed.inode, listed.size):", "if False:",
        "tests/enginefarm/contract/test_regular_files.py",
    ),
    Guard(
        "a hard link to a file outside an output is refused", "enginefarm/contract/regular_files.py",
        "if links != names_by_inode[inode]:", "if False:",
        "tests/enginefarm/contract/test_regular_files.py",
    ),
    Guard(
        "an output has a largest number of files", "enginefarm/contract/regular_files.py",
        "if entries > limits.entries:", "if False:",
        "tests/enginefarm/contract/test_regular_files.py",
    ),
    Guard(
        "a file of an output that is mostly holes is refused", "enginefarm/contract/regular_files.py",
        "if data_bytes < listed.st_size // 2:", "if False:",
        "tests/enginefarm/contract/test_regular_files.py",
    ),
    Guard(
        "an upload reads regular files only", "models/store/protocol.py",
        "with regular_files.opened(source.parent, source.name) as stream:", "with source.open(\"rb\") as stream:",
        "tests/models/store/test_directory.py",
    ),
    Guard(
        "JSON of an output has a largest length", "toolchains/output_files.py",
        "content = stream.read(longest + 1)", "content = stream.read()",
        "tests/toolchains/test_output_files.py",
    ),
    Guard(
        "a check of an output ends when the worker says so", "workers/programs/output_check.py",
        "            keep_going()\n", "            pass\n",
        "tests/workers/programs/test_output_check.py",
    ),
    Guard(
        "a check that was given up is killed", "workers/programs/output_check.py",
        "            self.close()\n            raise\n", "            raise\n",
        "tests/workers/programs/test_output_check.py",
    ),
    Guard(
        "facts of an output can be stored", "workers/programs/output_check.py",
        "        require_storable(facts)\n", "",
        "tests/workers/programs/test_output_check.py",
    ),
    Guard(
        "the log of an attempt has no name", "workers/reporting/job_log.py",
        "tempfile.TemporaryFile(dir=folder, buffering=0)", "(folder / \"log\").open(\"w+b\", buffering=0)",
        "tests/workers/reporting/test_job_log.py",
    ),
    Guard(
        "hashing an output ends with a cancel", "workers/stage/run.py",
        "limits=limits, watch=self.watch)", "limits=limits)",
        "tests/workers/stage/test_run.py",
    ),
    Guard(
        "one attempt at most finishes while its slot computes", "workers/turn.py",
        "if self._slot.finishing is None:", "if True:",
        "tests/workers/test_slots.py",
    ),
    Guard(
        "without the sandbox no programs run beside an output that is checked", "workers/stage/run.py",
        "if not self.tools.isolation.complete:", "if False:",
        "tests/workers/stage/test_run.py",
    ),
    Guard(
        "a stage's time limit covers its whole attempt", "workers/stage/run.py",
        "if time.monotonic() > self.deadline:", "if False:",
        "tests/workers/stage/test_run.py",
    ),
    Guard(
        "a thread that ends by itself ends its process", "models/loops.py",
        "except BaseException as error:  # noqa: BLE001  # a thread that ends by SystemExit says nothing\n"
        "            self._loops.note_end(self._name, error)",
        "except BaseException:\n            pass",
        "tests/models/test_loops.py",
    ),
    Guard(
        "a task that ends by itself ends its process", "models/loops.py",
        "                self.note_end(name, error)\n                return",
        "                return",
        "tests/models/test_loops.py",
    ),
    Guard(
        "a worker does not use the scratch folder of another one", "workers/scratch/scratch_lock.py",
        "if not is_locked:", "if False:",
        "tests/workers/scratch/test_scratch_lock.py",
    ),
    Guard(
        "a request that is cut at the end of its API leaves no traceback", "api/http/leaving.py",
        "if not self._leaving.is_set():", "if True:",
        "tests/farm/test_ends.py::test_an_api_ends_while_requests_wait_for_a_database_that_hangs",
    ),
    Guard(
        "streams end with their API", "api/watching/watch.py",
        "        if self._leaving.is_set():\n", "        if False:\n",
        "tests/farm/test_signals.py",
    ),
    Guard(
        "a lost notification hides no change", "api/watching/watch.py",
        "looks_at_all = begin - self._looked_at >= self._interval", "looks_at_all = False",
        "tests/api/test_watch.py",
    ),
    Guard(
        "a checkpoint of a build in flight stays", "models/retention/removal.py",
        "return [key for key in locked if key not in needed]", "return list(locked)",
        "tests/models/retention/test_policies.py tests/models/lifecycle/test_concurrent_pairs.py",
    ),
    Guard(
        "the last build of a key that has an engine stays", "models/retention/past_builds.py",
        "or_(has_newer, ~has_engine)", "or_(has_newer, has_engine, ~has_engine)",
        "tests/models/retention/test_past_builds.py",
    ),
    Guard(
        "an engine keeps its action and attempts", "models/retention/past_actions.py",
        "        ~exists().where(EngineRow.key == ActionRow.key),\n", "",
        "tests/models/retention/test_past_actions.py",
    ),
    Guard(
        "a checkpoint keeps its action", "models/retention/past_actions.py",
        "        ~exists().where(CheckpointRow.key == ActionRow.key),\n", "",
        "tests/models/retention/test_past_actions.py",
    ),
    Guard(
        "an action in flight keeps its attempts", "models/retention/past_actions.py",
        "exists().where(ActionRow.key == AttemptRow.action_key, ActionRow.state.in_(CLOSED))",
        "exists().where(ActionRow.key == AttemptRow.action_key)",
        "tests/models/retention/test_past_actions.py",
    ),
    Guard(
        "a watched build is looked at as soon as it changes", "api/watching/watch.py",
        "            self._heard.update(changes.actions)\n", "",
        "tests/api/test_watch.py",
    ),
    Guard(
        "a defect leaves no cached submit without an answer", "api/batches.py",
        "except BaseException as cause:  # noqa: BLE001  # whatever it is, the callers must get it",
        "except EnginefarmError as cause:",
        "tests/api/test_cached_submits.py",
    ),
    Guard(
        "an error ends a round of a loop, never the loop", "models/loops.py",
        "except Exception as error:  # noqa: BLE001  # whatever it is, the loop must go on",
        "except EnginefarmError as error:",
        "tests/models/test_loops.py",
    ),
    Guard(
        "a warm file is no link", "workers/warm_start.py",
        "with regular_files.opened(self.path.parent, self.path.name) as stream:",
        "with self.path.open(\"rb\") as stream:",
        "tests/workers/test_warm_start.py",
    ),
    Guard(
        "JSON that is nested deeply is refused", "enginefarm/contract/bounded.py",
        "and len(list(_levels(value))) > MAX_DEPTH:", "and False:",
        "tests/enginefarm/contract/test_bounded.py",
    ),
    Guard(
        "the bodies of requests are read with a depth", "api/http/routing.py",
        "return parse_json(content)", "return json.loads(content)",
        "tests/attack/test_bad_input.py",
    ),
    Guard(
        "a NUL in a URL is refused", "api/http/problems.py",
        """("\\0" in scope["path"] or b"%00" in scope["query_string"]):""", "False:",
        "tests/api/http/test_bad_input.py",
    ),
    Guard(
        "text of a request has no NUL", "enginefarm/contract/bounded.py",
        """WITHOUT_NUL = r"^[^\\x00]*$\"""", """WITHOUT_NUL = r"^(?s:.)*$\"""",
        "tests/attack/test_bad_input.py",
    ),
    Guard(
        "text of a model's config can be stored", "models/sources/inspection/config_facts.py",
        "if not is_plain_text(parsed):", "if False:",
        "tests/attack/test_bad_input.py",
    ),
    Guard(
        "numbers of a model's facts can be stored", "enginefarm/contract/model/facts.py",
        "Settings = Annotated[dict[str, Any], AfterValidator(portable)]", "Settings = dict[str, Any]",
        "tests/attack/test_bad_input.py",
    ),
    Guard(
        "an option has no number that a key cannot state", "enginefarm/contract/portable.py",
        "or not _is_exact(value):", "or False:",
        "tests/enginefarm/contract/test_bounded.py",
    ),
    Guard(
        "a path that cannot exist is a model that does not", "models/sources/confined_folders.py",
        "errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})", "errno.ENOTDIR})",
        "tests/attack/test_bad_input.py",
    ),
    Guard(
        "a platform that describes no machine is refused", "api/planning/completion.py",
        "except ValidationError as error:", "except InvalidVersion as error:",
        "tests/attack/test_bad_input.py",
    ),
    Guard(
        "a label fits into the name of a queue", "enginefarm/contract/platform.py",
        "if len(label) <= _MAX_LABEL:", "if True:",
        "tests/enginefarm/contract/test_bounded.py",
    ),
    Guard(
        "a 405 names the methods of the path", "api/http/problems.py",
        """headers["Allow"] = """, """headers["X-Allow"] = """,
        "tests/api/http/test_methods.py",
    ),
    Guard(
        "wrong bytes that a worker's account may not delete lose their size", "models/store/s3.py",
        'self._client.put_object(self._bucket, self._name(digest), io.BytesIO(b""), 0)', "pass",
        "tests/deployment/test_store_server.py",
    ),
    Guard(
        "no prepared statement meets another session behind a pooler", "models/catalogue/database.py",
        '"prepare_threshold": None, ', "",
        "tests/models/catalogue/test_database_outages.py",
    ),
    Guard(
        "the database's outages are no defects, whatever uses the engine", "models/catalogue/database.py",
        "return DatabaseUnavailable(outage.sentence(error, engine.url))", "return None",
        "tests/models/catalogue/test_database_outages.py",
    ),
    Guard(
        "after a failover no connection to the standby stays in the pool", "models/catalogue/database.py",
        "context.is_disconnect = True", "pass",
        "tests/models/catalogue/test_database_outages.py",
    ),
    Guard(
        "no error shows a part of the database's password as its host", "models/catalogue/database_url.py",
        'if "@" in before_options:', "if False:",
        "tests/models/catalogue/test_database_url.py",
    ),
    Guard(
        "no lock of a session stays behind a pooler", "migrations/roles.py",
        "SELECT pg_advisory_xact_lock(:key)", "SELECT pg_advisory_lock(:key)",
        "tests/migrations/test_roles.py",
    ),
    Guard(
        "an unusable cache does not fail a pull", "enginefarm/transfer/node_cache.py",
        "        if self._is_reported:\n            return\n", "        raise error\n",
        "tests/enginefarm/transfer/test_unusable_cache.py",
    ),
    Guard(
        "a node that insists on the list of recalls needs a memory of it", "enginefarm/trust/signature_policy.py",
        "        if self.max_age is not None:\n            raise InvalidRequest(f\"{text}",
        "        if False:\n            raise InvalidRequest(f\"{text}",
        "tests/enginefarm/trust/test_signature_policy.py",
    ),
    Guard(
        "a password of a proxy is in no error", "enginefarm/client/proxies.py",
        'f"{variable} names the proxy {proxy_url}, and', 'f"{variable} names the proxy {text}, and',
        "tests/enginefarm/client/test_proxies.py",
    ),
    Guard(
        "weights that are laid out for one SM are shared with no other", "enginefarm/contract/key.py",
        '        document["platform"] = {"sm": sm}\n', "",
        "tests/enginefarm/contract/test_key.py",
    ),
    Guard(
        "every recipe that lays weights out says so", "toolchains/trtllm/context/conversion.py",
        "laid_out_for_sm = laid_out_for_sm or recipe.laid_out_for_sm", "pass",
        "tests/toolchains/trtllm/commands/test_resources.py",
    ),
    Guard(
        "a conversion for one SM runs on no other", "workers/stage/refusals.py",
        "        if platform.sm != required_sm:", "        if False:",
        "tests/workers/stage/test_refusals.py",
    ),
    Guard(
        "one card, one build", "models/lifecycle/gpu_locks.py",
        "        if not insert_new(session, GpuLockRow, lock):\n", "        if False:\n",
        "tests/models/lifecycle/test_gpu_locks.py",
    ),
    Guard(
        "a cancelled stage keeps its GPU while its programs end", "models/fleet/gpu_use.py",
        "    GpuLockRow.expires_at < now(),\n", "",
        "tests/models/lifecycle/test_gpu_locks.py",
    ),
    Guard(
        "where an error is raised decides what it means", "toolchains/trtllm/logs/failures.py",
        "not self._raised_in_regex.search(line.raised_in)", "False",
        "tests/toolchains/trtllm/logs/test_error_corpus.py",
    ),
    Guard(
        "the programs of a frozen worker end with its lease", "workers/stage/run.py",
        "                    on_start=self.end_with_the_lease,\n", "",
        "tests/workers/stage/test_run.py",
    ),
    Guard(
        "a supervisor that hears of no renewal ends its program", "workers/sandbox/supervisor.py",
        "time.monotonic() >= lease_ends", "False",
        "tests/workers/programs/test_child.py",
    ),
    Guard(
        "an overdue lock of a running attempt is kept", "models/fleet/gpu_use.py",
        "        ActionRow.state == ActionState.RUNNING,\n", "        ActionRow.state == ActionState.FAILED,\n",
        "tests/models/lifecycle/test_gpu_locks.py",
    ),
    Guard(
        "a claim for a GPU locks it", "workers/runner.py",
        "claim = lock_gpus(session, claim, gpus, seconds=seconds)", "pass",
        "tests/workers/test_gpus.py",
    ),
    Guard(
        "the oldest action of a queue is overtaken a few times only", "models/queue/order.py",
        "func.coalesce(oldest.c.overtaken, 0) < MOST_OVERTAKING,", "true(),",
        "tests/models/queue/test_order.py",
    ),
    Guard(
        "an action is overtaken for a limited time", "models/queue/order.py",
        "oldest.c.overtaken_at > now(-OVERTAKEN_SECONDS)", "true()",
        "tests/models/queue/test_order.py",
    ),
    Guard(
        "a message that is consumed without a claim leaves no due action behind", "workers/runner.py",
        "            self.leaving.wait(_LOCKED_SECONDS)\n            self.announcer.announce([left.announcement])\n",
        "            self.leaving.wait(_LOCKED_SECONDS)\n",
        "tests/workers/test_claims.py",
    ),
    Guard(
        "a fetch ahead ends when its action is gone", "workers/inputs/prefetch.py",
        "if not is_queued and not ahead.is_claimed:", "if False:",
        "tests/workers/inputs/test_prefetch.py",
    ),
    Guard(
        "a version left out is a stable one", "api/planning/completion.py",
        "return max(stable or versions, key=_version_order)", "return max(versions, key=_version_order)",
        "tests/api/test_completion.py",
    ),
    Guard(
        "a TensorRT that the release does not carry is refused", "toolchains/trtllm/checks/release_parts.py",
        "CHECKS: tuple[Check, ...] = (tensorrt, cuda)", "CHECKS: tuple[Check, ...] = (cuda,)",
        "tests/toolchains/trtllm/checks/test_release_parts.py",
    ),
    Guard(
        "the worker's own packages are not those of the image", "enginefarm/node/detection.py",
        "            packages |= {**image_python.packages",
        "            packages = {**image_python.packages, **packages",
        "tests/enginefarm/node/test_image_python.py",
    ),
)  # fmt: skip
