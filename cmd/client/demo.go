package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/internal/bench"
	"github.com/aipod/aipod/internal/flagenv"
	"github.com/aipod/aipod/internal/service"
	"github.com/aipod/aipod/internal/tabular"
	"github.com/aipod/aipod/internal/transport"
	"github.com/aipod/aipod/internal/worker"
)

const (
	// demoAccuracy is what the demo's model must reach over the rows that it has
	// not seen: 28 of 30.
	demoAccuracy = 0.93
	// demoRoom is the disk that the demo needs besides the payload, in bytes.
	demoRoom = 64 << 20
)

func (a *app) demoCommand() *cobra.Command {
	size := flagenv.Size(1 << 30)
	var (
		protocol string
		asJSON   bool
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show it all on this machine: train, predict, move a large payload",
		Long: `Start a pod in this process, on a free loopback port and with a temporary
directory, and use it as any client would, over TCP: train a classifier on the
iris data, predict rows that training has not seen, and move a large payload of
random bytes. Nothing is left behind.

With --json it says the same in three lines, which have "step": train, predict and
move.

It fails if fewer than 93 % of the predictions are right, or if the pod's digest
of the payload is not the one computed while sending.`,
		Example: `  client demo
  client demo --size 4GiB
  client demo --size 64MiB -v
  client demo --json | jq 'select(.step == "move").bytes_per_s'`,
		Args: exactly(),
	}
	cmd.Flags().Var(&size, "size", "of the large payload; the temporary directory needs room for it")
	cmd.Flags().StringVar(&protocol, "protocol", string(transport.GRPC), "RPC protocol: grpc, grpcweb or connect")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what came out as lines of JSON")
	return a.finish(cmd, func(ctx context.Context, _ []string) error {
		return a.demo(ctx, int64(size), protocol, asJSON)
	})
}

// demo runs the demo; what it made is gone when it returns.
func (a *app) demo(ctx context.Context, size int64, protocol string, asJSON bool) (err error) {
	if err := roomFor(os.TempDir(), size); err != nil {
		return err
	}
	// Everything that can be wrong usage, before there is anything to clean up.
	dial := dialFlags{addr: defaultAddr, protocol: protocol}
	if _, err := dial.open(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aipod-demo-")
	if err != nil {
		return failf("make a directory for the demo: %w", err)
	}
	defer func() {
		if rerr := os.RemoveAll(dir); err == nil && rerr != nil {
			err = failf("clean up: %w", rerr)
		}
	}()
	pod, err := a.startPod(dir)
	if err != nil {
		return failf("start the demo's pod: %w", err)
	}
	defer func() {
		if serr := pod.stop(); err == nil && serr != nil {
			err = failf("stop the demo's pod: %w", serr)
		}
	}()
	dial.addr = pod.addr
	c, err := dial.open()
	if err != nil {
		return err
	}
	defer c.close()
	d := &demo{app: a, conn: c, json: asJSON}
	d.printf("pod      %s, data in %s\n\n", pod.addr, dir)
	if err := d.learn(ctx); err != nil {
		return err
	}
	if err := d.move(ctx, size); err != nil {
		return err
	}
	d.printf("\nall of it worked. Now your own pod:  go run ./cmd/server\nand in another terminal:              go run ./cmd/client call hello\n")
	return nil
}

// roomFor checks that dir has room for a payload of size bytes.
func roomFor(dir string, size int64) error {
	free, err := freeDisk(dir)
	if err != nil {
		return nil //nolint:nilerr // then the upload finds out
	}
	if need := size + demoRoom; free < need {
		return &failure{
			exit: exitFailed,
			what: fmt.Sprintf("%s has %s of room and the demo needs %s", dir, bytesText(free), bytesText(need)),
			todo: "choose a smaller --size, or another directory with TMPDIR",
		}
	}
	return nil
}

// A demoPod is a pod in this process.
type demoPod struct {
	addr string
	end  context.CancelFunc
	done chan error // what Serve returned
}

func (a *app) startPod(dir string) (*demoPod, error) {
	log := slog.New(slog.DiscardHandler)
	if a.verbose {
		log = slog.New(slog.NewTextHandler(a.stderr, nil))
	}
	pod, err := service.Open(service.Config{
		OpenModel: func(dir string) (worker.Model, error) { return tabular.Open(dir) },
		DataDir:   dir, DrainTimeout: time.Second, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, pod.Close())
	}
	ctx, end := context.WithCancel(context.Background())
	p := &demoPod{addr: "http://" + listener.Addr().String(), end: end, done: make(chan error, 1)}
	go func() { p.done <- pod.Serve(ctx, listener) }()
	return p, nil
}

func (p *demoPod) stop() error {
	p.end()
	return <-p.done
}

// A demo uses a pod.
type demo struct {
	app  *app
	conn *conn
	json bool
}

// printf is for people.
func (d *demo) printf(format string, args ...any) {
	if !d.json {
		fmt.Fprintf(d.app.stdout, format, args...)
	}
}

// A demoStep is a line of --json. What does not belong to the step is absent.
type demoStep struct {
	Step        string   `json:"step"`
	Rows        int      `json:"rows,omitempty"` // that were trained on or predicted
	Classes     int      `json:"classes,omitempty"`
	Right       int      `json:"right,omitempty"` // of the predictions
	Accuracy    *float64 `json:"accuracy,omitempty"`
	Bytes       int64    `json:"bytes,omitempty"`
	Sent        float64  `json:"sent_s,omitempty"`
	Took        float64  `json:"took_s,omitempty"`
	BytesPerSec int64    `json:"bytes_per_s,omitempty"` // from the first byte to the result
	Heartbeats  int      `json:"heartbeats,omitempty"`
	SHA256      string   `json:"sha256,omitempty"`
}

// step is for scripts.
func (d *demo) step(s demoStep) error {
	if !d.json {
		return nil
	}
	return d.app.printJSON(s)
}

// call calls a function and decodes its result. events is told what happens.
func (d *demo) call(ctx context.Context, spec callSpec, events func(client.Event), result any) error {
	spec.heartbeat = time.Second
	f := following{conn: d.conn, showing: showing{fn: spec.fn, size: spec.payload.size, heartbeat: spec.heartbeat}}
	t := d.app.track(f.showing)
	got, err := d.conn.run(ctx, spec, nil, func(e client.Event) {
		t.watch(e)
		events(e)
	})
	t.close()
	if err != nil {
		s := t.status()
		return f.explain(err, &s, false)
	}
	if err := json.Unmarshal(got.JSON, result); err != nil {
		return failf("the result of %s: %w", spec.fn, err)
	}
	return nil
}

func quietly(client.Event) {}

// learn trains on four of five flowers and predicts the others.
func (d *demo) learn(ctx context.Context) error {
	known, held := holdOut(tabular.Iris())
	var trained struct {
		Rows     int      `json:"rows"`
		TestRows int      `json:"test_rows"`
		Accuracy *float64 `json:"accuracy"`
		Classes  []string `json:"classes"`
	}
	spec := callSpec{fn: "train", version: "demo", kwargs: json.RawMessage(`{"target":"species"}`), payload: bytesSource(known.csv(known.header))}
	if err := d.call(ctx, spec, quietly, &trained); err != nil {
		return err
	}
	d.printf("train    %d flowers of %d species", trained.Rows, len(trained.Classes))
	if trained.Accuracy != nil {
		d.printf("; accuracy %.3f over %d of them that the model held out", *trained.Accuracy, trained.TestRows)
	}
	d.printf("\n")
	if err := d.step(demoStep{Step: "train", Rows: trained.Rows, Classes: len(trained.Classes), Accuracy: trained.Accuracy}); err != nil {
		return err
	}

	var predicted struct {
		Labels []string `json:"labels"`
	}
	// Without the last column, which is the answer.
	spec = callSpec{fn: "predict", version: "demo", payload: bytesSource(held.csv(held.header[:len(held.header)-1]))}
	if err := d.call(ctx, spec, quietly, &predicted); err != nil {
		return err
	}
	if len(predicted.Labels) != len(held.rows) {
		return failf("predict returned %d labels for %d rows", len(predicted.Labels), len(held.rows))
	}
	right := 0
	for i, row := range held.rows {
		if row[len(row)-1] == predicted.Labels[i] {
			right++
		}
	}
	accuracy := float64(right) / float64(len(held.rows))
	d.printf("predict  %d flowers that were kept from training: %d right, accuracy %.3f; some of them:\n\n", len(held.rows), right, accuracy)
	d.table(held, predicted.Labels)
	if err := d.step(demoStep{Step: "predict", Rows: len(held.rows), Right: right, Accuracy: &accuracy}); err != nil {
		return err
	}
	if accuracy < demoAccuracy {
		return failf("the accuracy %.3f is below %v: the model does not learn as it should", accuracy, demoAccuracy)
	}
	return nil
}

// table shows every fifth prediction.
func (d *demo) table(t flowers, labels []string) {
	if d.json {
		return
	}
	w := tabwriter.NewWriter(d.app.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "         %s\tpredicted\n", strings.Join(t.header, "\t"))
	for i := 0; i < len(t.rows); i += 5 {
		row, mark := t.rows[i], ""
		if row[len(row)-1] != labels[i] {
			mark = "\twrong"
		}
		fmt.Fprintf(w, "         %s\t%s%s\n", strings.Join(row, "\t"), labels[i], mark)
	}
	_ = w.Flush() // stdout's errors show when the command ends
}

// move sends random bytes and compares digests.
func (d *demo) move(ctx context.Context, size int64) error {
	payload, err := generatedSource(bench.Random, size, 1)
	if err != nil {
		return err
	}
	sum := sha256.New()
	d.printf("\nmove     %s of random bytes through aipod.v1.JobService/Run to sha256\n", bytesText(size))
	spec := callSpec{fn: "sha256", payload: hashed(payload, sum)}
	var result struct {
		SHA256 string `json:"sha256"`
		Size   int64  `json:"size"`
	}
	var uploaded time.Time
	beats, start := 0, time.Now()
	if err := d.call(ctx, spec, func(e client.Event) {
		switch e.(type) {
		case client.Heartbeat:
			beats++
		case client.Uploaded:
			uploaded = time.Now()
		}
	}, &result); err != nil {
		return err
	}
	took := time.Since(start)
	upload := took
	if !uploaded.IsZero() { // a cut may have come just then
		upload = uploaded.Sub(start)
	}
	d.printf("         sent in %s, %s/s; %d heartbeats meanwhile and until the result\n",
		short(upload), bytesText(int64(float64(size)/upload.Seconds())), beats)
	d.printf("         result after %s, %s/s: %s\n", short(took), bytesText(int64(float64(size)/took.Seconds())), result.SHA256)
	if want := hex.EncodeToString(sum.Sum(nil)); result.SHA256 != want || result.Size != size {
		return failf("the pod has %d bytes with the digest %s, and %d with %s were sent: bytes were lost or changed",
			result.Size, result.SHA256, size, want)
	}
	d.printf("         the same digest as computed while sending: not a bit is lost\n")
	return d.step(demoStep{
		Step: "move", Bytes: size, Sent: seconds(upload), Took: seconds(took), BytesPerSec: int64(float64(size) / took.Seconds()),
		Heartbeats: beats, SHA256: result.SHA256,
	})
}

// hashed is a source that computes the digest of what is read.
func hashed(s source, sum hash.Hash) source {
	s.payload = client.ReaderAt(&digester{r: &replay{open: s.open}, sum: sum}, s.size)
	return s
}

// A digester computes the digest of what is read for the first time. Nobody may
// leave anything out.
type digester struct {
	r   io.ReaderAt
	sum hash.Hash
	n   int64 // bytes in sum
}

func (d *digester) ReadAt(p []byte, offset int64) (int, error) {
	n, err := d.r.ReadAt(p, offset)
	if behind := offset + int64(n); offset <= d.n && d.n < behind {
		_, _ = d.sum.Write(p[d.n-offset : n]) // never fails
		d.n = behind
	}
	return n, err
}

// flowers are rows of the iris data; the last cell is the species.
type flowers struct {
	header []string
	rows   [][]string
}

// holdOut keeps every fifth row back: 10 of each species.
func holdOut(data []byte) (known, held flowers) {
	lines := strings.Split(strings.TrimSpace(string(data)), "\n") // no cell is quoted
	header := strings.Split(lines[0], ",")
	known.header, held.header = header, header
	for i, line := range lines[1:] {
		row := strings.Split(line, ",")
		if i%5 == 4 {
			held.rows = append(held.rows, row)
		} else {
			known.rows = append(known.rows, row)
		}
	}
	return known, held
}

// csv is the rows with the first columns, as header names them.
func (f flowers) csv(header []string) []byte {
	var out bytes.Buffer
	fmt.Fprintln(&out, strings.Join(header, ","))
	for _, row := range f.rows {
		fmt.Fprintln(&out, strings.Join(row[:len(header)], ","))
	}
	return out.Bytes()
}
