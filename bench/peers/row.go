package main

import (
	"fmt"
	"time"

	"github.com/aipod/aipod/internal/bench"
)

// A row is a comparison that the page makes, with one or more tables.
type row struct {
	name   string
	title  string
	about  string // what is compared, and what is unequal about it
	tables []table
}

// A table is measured in rounds: each side once, in turn.
type table struct {
	name    string
	sides   []side
	metrics []metric // its columns
	targets []target
	times   int // as many rounds as pairs are asked for; 0 is 1
	rounds  int // if not 0: as many at most, however many pairs are asked for
}

// A side is a server and a client.
type side struct {
	name    string
	server  []string // program and flags
	setup   []string // as client: what has to be there beforehand, not measured
	client  []string // program and flags; nil measures the start of the server
	payload payload
	delay   time.Duration // of a relay between the two, each way
	most    int           // rounds that it takes part in; 0 is all
}

// payloadArg stands for the file with the payload in a client's flags.
const payloadArg = "{payload}"

// A scale is how large and long everything is.
type scale struct {
	upload, far, python, memory int64         // bytes
	calls, waits                time.Duration // how long calls are made; how long they wait
	waiting                     int           // calls on each connection
	longer                      time.Duration // the wait of more calls
	more                        int           // calls on each connection of those
}

var (
	fullSize = scale{
		upload: 512 * mib, far: 256 * mib, python: 256 * mib, memory: 5 * gib,
		calls: 5 * time.Second, waits: 20 * time.Second, waiting: 250, longer: time.Minute, more: 400,
	}
	// quickSize is for trying the programs.
	quickSize = scale{
		upload: mib, far: 256 * kib, python: mib, memory: 3 * mib,
		calls: 50 * time.Millisecond, waits: 1200 * time.Millisecond, waiting: 5, longer: 1200 * time.Millisecond, more: 5,
	}
)

const job = "bench" // name of durable jobs

// The sides of aipod that differ in the server's or client's flags only.
func aipod(name string, p payload, flags ...string) side {
	return side{
		name: name, payload: p, server: []string{"server"},
		client: append([]string{"aipodpeer", "upload", "-file", payloadArg}, flags...),
	}
}

// upload is a peer's side.
func upload(name, program string, p payload, server []string, op string, flags ...string) side {
	return side{
		name: name, payload: p, server: append([]string{program}, server...),
		client: append([]string{program, op, "-file", payloadArg}, flags...),
	}
}

const (
	chunk32k = 32 * kib
	chunk1m  = mib
)

func chunk(n int) []string { return []string{"-chunk", fmt.Sprint(n)} }

// rows are all rows, in the page's order.
func rows(z scale) []row {
	random := payload{bench.Random, z.upload}
	return []row{
		seedRow(z),
		uploadRow(random),
		cpuRow(random),
		farRow(z),
		pythonRow(z),
		waitRow(z),
		manyRow(z),
		smallRow(z),
		beatRow(random),
		memoryRow(z),
		startRow(),
	}
}

func seedRow(z scale) row {
	r := row{
		name: "seed", title: "Against the first aipod, in Python",
		about: "A file to the function `sha256`, by an ephemeral job of `JobService.Run` with the Go client's defaults; and by `ai.AI/chaos` with the first aipod's design as its " +
			"author has published it: grpcio with asyncio on both sides, gzip by gRPC on top of zstd by itself, messages of 32 KiB, the result looked for each second. " +
			"Without gzip is the same design with that one option left out.",
	}
	for _, kind := range []bench.Kind{bench.Random, bench.Text, bench.CSV} {
		p := payload{kind, z.upload}
		least := 7.0
		if kind == bench.Random {
			least = 15
		}
		seed := side{
			name: "first aipod", payload: p, server: []string{"seed/server.py"},
			client: []string{"seed/client.py", "--func", "sha256", "--payload", payloadArg},
		}
		plain := seed
		plain.name, plain.most = "first aipod without gzip", 3
		plain.server = append(plain.server[:1:1], "--no-gzip")
		plain.client = append(plain.client[:1:1], append([]string{"--no-gzip"}, seed.client[1:]...)...)
		r.tables = append(r.tables, table{
			name: p.String(), metrics: transfer,
			sides: []side{aipod("aipod", p), seed, plain},
			targets: []target{
				{metric: throughput, a: "aipod", b: "first aipod", least: least},
				{metric: throughput, a: "aipod", b: "first aipod without gzip", informs: true},
			},
		})
	}
	return r
}

func uploadRow(p payload) row {
	tuned := []string{"-tuned"}
	return row{
		name: "upload", title: "Uploads against Go libraries",
		about: "A file that does not compress. aipod stores it, checks it and computes its SHA-256, in an ephemeral job with the client's defaults; " +
			"tusd stores it; all others throw it away. grpc-go is tuned with aipod's windows (8 and 16 MiB) and buffers of 1 MiB.",
		tables: []table{{
			name: p.String(), metrics: transfer,
			sides: []side{
				aipod("aipod", p),
				upload("connect-go, 32 KiB", "connectpeer", p, nil, "upload", chunk(chunk32k)...),
				upload("connect-go, 1 MiB", "connectpeer", p, nil, "upload", chunk(chunk1m)...),
				upload("grpc-go, 32 KiB", "grpcpeer", p, nil, "upload", chunk(chunk32k)...),
				upload("grpc-go, 1 MiB", "grpcpeer", p, nil, "upload", chunk(chunk1m)...),
				upload("grpc-go tuned, 1 MiB", "grpcpeer", p, tuned, "upload", append(chunk(chunk1m), tuned...)...),
				upload("tusd", "tuspeer", p, nil, "upload"),
				upload("net/http POST", "plainpeer", p, nil, "post"),
				upload("TCP", "plainpeer", p, tuned, "tcp"),
			},
			targets: []target{
				{metric: throughput, a: "aipod", b: "connect-go, 32 KiB", least: 2},
				{metric: throughput, a: "aipod", b: "connect-go, 1 MiB", least: 1.2},
				{metric: throughput, a: "aipod", b: "grpc-go, 1 MiB", least: 1.1},
				{metric: throughput, a: "aipod", b: "grpc-go tuned, 1 MiB", informs: true},
				{metric: throughput, a: "aipod", b: "tusd", informs: true},
				{metric: throughput, a: "aipod", b: "net/http POST", informs: true},
			},
		}},
	}
}

func cpuRow(p payload) row {
	return row{
		name: "cpu", title: "The server's processor time of an upload",
		about: "aipod receives an ephemeral job that is not compressed (`LevelRaw`), checks the CRC-32C of each chunk and of the whole, and stores it, for the function `hello`, " +
			"which does not read it: what is measured is the way to the function. connect-go throws the payload away.",
		tables: []table{{
			name: p.String(), metrics: transfer,
			sides: []side{
				aipod("aipod", p, "-func", "hello", "-level", "raw"),
				upload("connect-go, 32 KiB", "connectpeer", p, nil, "upload", chunk(chunk32k)...),
				upload("connect-go, 1 MiB", "connectpeer", p, nil, "upload", chunk(chunk1m)...),
			},
			targets: []target{
				{metric: serverCPU, a: "aipod", b: "connect-go, 32 KiB", most: 1},
				{metric: serverCPU, a: "aipod", b: "connect-go, 1 MiB", most: 1},
			},
		}},
	}
}

// stored is an aipod with a job whose output can be fetched.
func stored(p payload, client ...string) side {
	return side{
		name: "aipod", payload: p, server: []string{"server"},
		setup:  []string{"aipodpeer", "store", "-func", "chaos", "-job", job, "-file", payloadArg},
		client: append(client, "--size", fmt.Sprint(p.size)),
	}
}

func farRow(z scale) row {
	p := payload{bench.Random, z.far}
	far := func(s side) side {
		s.delay = 25 * time.Millisecond
		return s
	}
	size := append(chunk(chunk1m), "--size", fmt.Sprint(z.far))
	return row{
		name: "far", title: "50 ms away",
		about: "Between client and server is a relay that delays each direction by 25 ms and limits nothing else; it holds up to 256 MiB each way. Upload: to `sha256`, as above. Download: the output of a durable job " +
			"that has ended, fetched by `Attach`; from connect-go, messages of 1 MiB that it makes of nothing. All with defaults; connect-go's compress what is downloaded with gzip.",
		tables: []table{
			{
				name: "upload of " + p.String(), metrics: transfer,
				sides: []side{far(aipod("aipod", p)), far(upload("connect-go, 1 MiB", "connectpeer", p, nil, "upload", chunk(chunk1m)...))},
				targets: []target{
					{metric: throughput, a: "aipod", least: 120},
					{metric: throughput, a: "aipod", b: "connect-go, 1 MiB", least: 6},
				},
			},
			{
				name: "download of " + p.String(), metrics: transfer,
				sides: []side{
					far(stored(p, "aipodpeer", "download", "-job", job)),
					far(side{name: "connect-go, 1 MiB", server: []string{"connectpeer"}, client: append([]string{"connectpeer", "download"}, size...)}),
				},
				targets: []target{
					{metric: throughput, a: "aipod", least: 120},
					{metric: throughput, a: "aipod", b: "connect-go, 1 MiB", least: 6},
				},
			},
		},
	}
}

func pythonRow(z scale) row {
	p := payload{bench.Random, z.python}
	size := fmt.Sprint(z.python)
	return row{
		name: "python", title: "Downloads by Python's grpcio",
		about: "grpcio as it comes says that it takes gzip. connect-go's handlers then compress each message. aipod: `JobService/Run` with the name of a durable job that has ended. Messages of 1 MiB.",
		tables: []table{{
			name: p.String(), metrics: transfer,
			sides: []side{
				stored(p, "seed/download.py", "--job", job),
				{name: "connect-go", server: []string{"connectpeer"}, client: []string{"seed/download.py", "--size", size}},
				{name: "grpc-go", server: []string{"grpcpeer"}, client: []string{"seed/download.py", "--size", size}},
			},
			targets: []target{
				{metric: throughput, a: "aipod", b: "connect-go", least: 10},
				{metric: serverCPU, a: "aipod", most: 1},
				{metric: throughput, a: "aipod", b: "grpc-go", informs: true},
			},
		}},
	}
}

func wait(name, program, target string, conns, streams int, d time.Duration, flags ...string) side {
	return side{
		name: name, server: append([]string{program}, flags...),
		client: []string{"waiter", "wait", "-target", target, "-conns", fmt.Sprint(conns), "-streams", fmt.Sprint(streams), "-for", d.String()},
	}
}

func waitRow(z scale) row {
	const conns = 40
	return row{
		name: "wait", title: fmt.Sprintf("%d waiting calls", conns*z.waiting),
		about: "Calls of `ai.AI/chaos` over 40 connections that wait with a beat each second. Running: each call is in the function `sleep`, which tells its progress each second, too. " +
			"Queued: all but four wait for their turn. grpc-go: a handler that sends a beat by its own ticker. Memory is what is resident while they wait, divided by the calls.",
		tables: []table{{
			name: fmt.Sprintf("%d calls, %v", conns*z.waiting, z.waits), metrics: waiting,
			sides: []side{
				wait("aipod, running", "server", "aipod", conns, z.waiting, z.waits, "--instances", "1", "--slots", "20000"),
				wait("aipod, queued", "server", "aipod", conns, z.waiting, z.waits, "--instances", "1", "--slots", "4", "--queue", "20000"),
				wait("grpc-go", "grpcpeer", "peer", conns, z.waiting, z.waits),
				wait("connect-go", "connectpeer", "peer", conns, z.waiting, z.waits),
			},
			targets: []target{
				{metric: cpuPerSecond, a: "aipod, running", b: "grpc-go", most: 1},
				{metric: cpuPerSecond, a: "aipod, queued", b: "grpc-go", most: 1},
				{metric: rssPerCall, a: "aipod, running", most: 16},
				{metric: rssPerCall, a: "aipod, queued", most: 16},
				{metric: gap999, a: "aipod, running", most: 1.5},
				{metric: gap999, a: "aipod, queued", most: 1.5},
				{metric: cpuPerSecond, a: "aipod, running", b: "connect-go", informs: true},
			},
		}},
	}
}

func manyRow(z scale) row {
	const conns = 125
	return row{
		name: "many", title: fmt.Sprintf("%d waiting calls", conns*z.more),
		about: "As above, running, over 125 connections. A call that ends, is reset or is refused fails the row; so does one without a beat.",
		tables: []table{{
			name: fmt.Sprintf("%d calls, %v", conns*z.more, z.longer), metrics: waiting, rounds: 3,
			sides:   []side{wait("aipod", "server", "aipod", conns, z.more, z.longer, "--instances", "1", "--slots", "60000")},
			targets: []target{{metric: maxGap, a: "aipod", most: 2}},
		}},
	}
}

func smallRow(z scale) row {
	caller := func(name, program, target string) side {
		return side{name: name, server: []string{program}, client: []string{
			"caller", "calls", "-target", target, "-conns", "4", "-streams", "16", "-for", z.calls.String(),
		}}
	}
	return row{
		name: "small", title: "Small calls",
		about: "A closed loop over 4 connections with 16 calls each, by the same client for all: grpc-go as it comes. aipod: an unnamed call of `ai.AI/chaos` to `hello`, kwargs with a name of 480 bytes in the first message " +
			"and 1 KiB of payload in the second; the answer is a beat and the result, about 1 KiB, which has the name twice. connect-go and grpc-go: a new stream for each call, on which 1 KiB goes there and back.",
		tables: []table{{
			name: fmt.Sprintf("4 × 16 calls, %v", z.calls), metrics: []metric{callRate, p50, p99, cpuPerCall, serverRSS},
			sides: []side{caller("aipod", "server", "aipod"), caller("connect-go", "connectpeer", "peer"), caller("grpc-go", "grpcpeer", "peer")},
			targets: []target{
				{metric: callRate, a: "aipod", b: "connect-go", least: 0.8},
				{metric: p99, a: "aipod", b: "connect-go", most: 1.5},
				{metric: callRate, a: "aipod", b: "grpc-go", informs: true},
			},
		}},
	}
}

func beatRow(p payload) row {
	return row{
		name: "heartbeat", title: "What heartbeats cost an upload",
		about: "The upload to `sha256` with a heartbeat each 200 ms, the most that can be asked for, and each 30 s, which is none at all during the upload. Three times as many rounds, because the difference is smaller than the noise of one.",
		tables: []table{{
			name: p.String(), metrics: transfer, times: 3,
			sides:   []side{aipod("200 ms", p, "-beat", "200ms"), aipod("30 s", p, "-beat", "30s")},
			targets: []target{{metric: throughput, a: "200 ms", b: "30 s", least: 0.99}},
		}},
	}
}

func memoryRow(z scale) row {
	r := row{
		name: "memory", title: fmt.Sprintf("Memory at %d GiB", z.memory/gib),
		about: "The most that was ever resident. Both ways: to `chaos`, which gives the payload back as its output. The payload is a file of 64 MiB again and again, with the client's defaults.",
	}
	for _, kind := range []bench.Kind{bench.Random, bench.Text} {
		p := payload{kind, min(z.memory, 64*mib)}
		size := []string{"--size", fmt.Sprint(z.memory)}
		up := aipod("upload", p, size...)
		both := aipod("both ways", p, append([]string{"-func", "chaos"}, size...)...)
		both.client[1] = "echo"
		t := table{name: string(kind), metrics: transfer, rounds: 3, sides: []side{up, both}}
		for _, s := range t.sides {
			t.targets = append(t.targets, target{metric: serverRSS, a: s.name, most: 64}, target{metric: clientRSS, a: s.name, most: 64})
		}
		r.tables = append(r.tables, t)
	}
	return r
}

func startRow() row {
	return row{
		name: "start", title: "The start of the server",
		about: "From exec to the answer of its health check, in a new data directory. The program is linked with `-s -w`.",
		tables: []table{{
			name: "server", metrics: []metric{milliseconds, binary, serverRSS}, times: 3,
			sides: []side{{name: "aipod", server: []string{"server"}}},
			targets: []target{
				{metric: milliseconds, a: "aipod", most: 50},
				{metric: binary, a: "aipod", most: 30},
			},
		}},
	}
}
