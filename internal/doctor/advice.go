package doctor

// An advice says what a finding costs and how to mend it: the line of each
// proxy's configuration, or where to look if it has none. {limit} is replaced by
// what was measured.
type advice struct{ costs, nginx, haproxy, envoy string }

var advices = map[Kind]advice{
	Protocols: {
		costs:   "callers that speak only what is missing can't use this port",
		nginx:   "h2: listen PORT http2; with grpc_pass grpc://pods;  HTTP/1.1: another listen with proxy_pass http://pods; proxy_http_version 1.1;",
		haproxy: "bind :PORT alpn h2,http/1.1 (or proto h2 without TLS), and server pod ADDR:PORT proto h2",
		envoy:   "codec_type: AUTO on the listener, and explicit_http_config: {http2_protocol_options: {}} on the cluster",
	},
	Health: {
		costs:   "who asks grpc.health.v1 through here, such as client health, gets an error; calls are not affected",
		nginx:   "location /grpc.health.v1.Health/ { grpc_pass grpc://pods; }",
		haproxy: "use_backend pods if { path_beg /grpc.health.v1.Health/ }",
		envoy:   "routes: [{match: {prefix: /grpc.health.v1.Health/}, route: {cluster: pods, timeout: 0s}}]",
	},
	Sticky: {
		costs:   "a caller who lost the connection finds its job only by luck: uploads start over, results are lost",
		nginx:   "hash $http_x_job_id consistent;  (in the upstream block)",
		haproxy: "balance hdr(x-job-id) and hash-type consistent",
		envoy:   "lb_policy: RING_HASH on the cluster, hash_policy: [{header: {header_name: x-job-id}}] on the route",
	},
	IdleTimeout: {
		costs:   "calls that ask for heartbeats every {limit} or more are cut; the usual 1 s works as long as none is late by that much",
		nginx:   "grpc_read_timeout 600s; proxy_read_timeout 600s;",
		haproxy: "timeout server 600s and timeout client 600s",
		envoy:   "stream_idle_timeout: 600s  (HttpConnectionManager), idle_timeout: 600s  (route)",
	},
	UploadIdleTimeout: {
		costs:   "an upload that pauses for {limit}, because its source is slow, is cut although the pod answers all the time",
		nginx:   "client_body_timeout 600s;",
		haproxy: "timeout client 600s",
		envoy:   "stream_idle_timeout: 600s and request_timeout: 0s  (HttpConnectionManager)",
	},
	TimeLimit: {
		costs:   "every call that takes longer than {limit} is cut; aipod's client attaches again, other gRPC clients and browsers lose the call",
		nginx:   "nginx has no such limit but at a reload: worker_shutdown_timeout 24h; look at what is before it",
		haproxy: "haproxy has no such limit but at a reload: hard-stop-after 24h; look at what is before it",
		envoy:   "timeout: 0s  (route; its default is 15s) and max_stream_duration: 0s",
	},
	UploadTimeLimit: {
		costs:   "every upload that takes longer than {limit} is cut, however fast it flows",
		nginx:   "nginx has no such limit: look at what is before it; client_body_timeout counts from one read to the next",
		haproxy: "no option http-buffer-request  (with it, timeout http-request counts the body, too)",
		envoy:   "request_timeout: 0s  (HttpConnectionManager)",
	},
	Unstable: {
		costs:   "calls break for no reason that the callers can avoid; aipod's client attaches again, others lose the call",
		nginx:   "look for \"upstream prematurely closed\" and \"reset by peer\" in error_log, and for reloads",
		haproxy: "look for the termination states cD, sD, SD and CD in the log, and for reloads",
		envoy:   "look for the response flags UC, UR, DC and SI in the access log",
	},
	RequestBuffering: {
		costs:   "the pod sees nothing of an upload before its end: it takes twice as long, fills the proxy's disk, is silent meanwhile, and can't be resumed",
		nginx:   "proxy_request_buffering off; proxy_http_version 1.1;",
		haproxy: "no option http-buffer-request",
		envoy:   "typed_per_filter_config: {envoy.filters.http.buffer: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute, disabled: true}}",
	},
	ResponseBuffering: {
		costs:   "heartbeats, progress and output come late or only at the end: callers hear nothing and take the pod for dead",
		nginx:   "proxy_buffering off; proxy_http_version 1.1;",
		haproxy: "option http-no-delay, and no filter that holds back answers, such as compression",
		envoy:   "remove envoy.filters.http.file_system_buffer and other filters that buffer from http_filters",
	},
	HalfDuplex: {
		costs:   "calls of Run and ai.AI that upload stall or are silent; CreateJob, WriteInput and WatchJob work, which browsers and aipod's client use then",
		nginx:   "grpc_pass grpc://pods;  on an HTTP/2 port: proxy_pass can't do it",
		haproxy: "server pod ADDR:PORT proto h2",
		envoy:   "explicit_http_config: {http2_protocol_options: {}}  (cluster)",
	},
	MessageLimit: {
		costs:   "a request of more than {limit} is refused: the pod's page sends smaller chunks then, but other half-duplex clients, which send up to 4 MiB, can't upload",
		nginx:   "client_max_body_size 0;",
		haproxy: "remove what compares req.body_size or req.hdr(content-length), such as http-request deny",
		envoy:   "max_request_bytes: 67108864  (envoy.filters.http.buffer), or remove that filter",
	},
	UploadLimit: {
		costs:   "an upload is cut when {limit} have been sent",
		nginx:   "client_max_body_size 0;",
		haproxy: "remove what compares req.body_size, such as http-request deny",
		envoy:   "max_request_bytes: 4294967295  (envoy.filters.http.buffer), or remove that filter",
	},
	RTT: {
		costs:   "measures of the connection alone, such as ping, look better than what calls get",
		nginx:   "keepalive 200;  (in the upstream block), if it connects to the pod for each call; else nothing to set",
		haproxy: "http-reuse always, if it connects to the pod for each call; else nothing to set",
		envoy:   "nothing to set",
	},
	Streams: {
		costs:   "of the calls on one connection, those over {limit} wait without a word until others have ended",
		nginx:   "http2_max_concurrent_streams 1000;",
		haproxy: "tune.h2.fe.max-concurrent-streams 1000",
		envoy:   "http2_protocol_options: {max_concurrent_streams: 1000}",
	},
	Window: {
		costs:   "one upload can't be faster than {limit} at this round-trip time, whatever the link can do",
		nginx:   "client_body_buffer_size 8m;  (it is the window of uploads that are not buffered)",
		haproxy: "tune.h2.fe.initial-window-size 8388608",
		envoy:   "http2_protocol_options: {initial_stream_window_size: 8388608, initial_connection_window_size: 16777216}",
	},
	Pings: {
		costs:   "clients that look whether the connection is alive, as aipod's do every 5 s of silence, lose it with all its calls",
		nginx:   "nginx bears PINGs: look at what is before it",
		haproxy: "tune.h2.fe.glitches-threshold 0",
		envoy:   "http2_protocol_options: {max_outbound_control_frames: 10000}; a grpc-go server: keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}",
	},
	Goaway: {
		costs:   "a client needs a new connection after {limit}; calls that are on their way just then fail with UNAVAILABLE in clients that don't repeat them",
		nginx:   "keepalive_requests 1000000; keepalive_time 24h;",
		haproxy: "tune.h2.fe.max-total-streams 0",
		envoy:   "common_http_protocol_options: {max_requests_per_connection: 0}",
	},
}
