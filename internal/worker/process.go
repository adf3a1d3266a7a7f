package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// A process is an instance of a version in a process of its own. A goroutine waits
// for its end and looks after its calls; what it says is read as rpcConn says.
type process struct {
	model   *Command
	cfg     *CommandConfig
	version string
	what    string // in errors
	log     *slog.Logger
	dir     string // its directory, with one for each slot
	child   *child
	conn    *rpcConn
	begun   time.Time
	lines   *rate.Limiter // of log notifications
	done    chan struct{} // closed when it gets no more calls
	gone    chan struct{} // closed when all of it has ended

	mu       sync.Mutex
	calls    map[string]*runningCall // by job
	free     []string                // directories for calls
	made     int                     // how many of these there are
	served   int                     // calls
	retired  bool
	err      error // once retired, why it has died
	closing  bool
	signaled int       // steps of ladder taken since the last call ended
	stepped  time.Time // when
	fault    string    // why this package has killed it
}

// A runningCall is a call that a process has.
type runningCall struct {
	*Call
	dir      string
	refused  error // why the output can't grow
	alive    time.Time
	warned   bool // that it shows no life
	canceled time.Time

	growing sync.Mutex
	grow    func(int64) error // once there is an output
	ended   bool
}

// start starts a process and has it load a version.
func (m *Command) start(ctx context.Context, version string) (Instance, error) {
	m.mu.Lock()
	m.serial++
	serial := m.serial
	m.mu.Unlock()
	p := &process{
		model: m, cfg: &m.cfg, version: version, what: "the worker",
		dir:   filepath.Join(m.cfg.WorkDir, strconv.Itoa(serial)),
		begun: time.Now(),
		lines: rate.NewLimiter(lineRate, lineBurst),
		done:  make(chan struct{}),
		gone:  make(chan struct{}),
		calls: map[string]*runningCall{},
	}
	if version != "" {
		p.what = fmt.Sprintf("the worker of version %s", version)
	}
	p.log = m.cfg.Logger.With("worker", serial, "version", version)
	if err := p.launch(); err != nil {
		return nil, err
	}
	if err := p.initialize(ctx); err != nil {
		p.kill("")
		<-p.gone
		return nil, err
	}
	p.log.Info("worker started", "pid", p.child.cmd.Process.Pid, "took", time.Since(p.begun).Round(time.Millisecond).String())
	return p, nil
}

func (p *process) launch() (err error) {
	if err := os.MkdirAll(filepath.Join(p.dir, "process"), 0o700); err != nil {
		return fmt.Errorf("start %s: %w", p.what, err)
	}
	conn, socket, err := newRPC(p.log, p.noted)
	if err != nil {
		return errors.Join(err, os.RemoveAll(p.dir))
	}
	p.conn = conn
	p.child, err = startChild(childConfig{
		what: p.what, command: p.cfg.Command, files: []*os.File{socket}, line: p.printed,
		env: environment(append([]string{"AIPOD_FD=" + strconv.Itoa(workerDescriptor)}, p.cfg.Env...)...),
	})
	err = errors.Join(err, socket.Close())
	if err != nil {
		conn.close(nil)
		return errors.Join(err, os.RemoveAll(p.dir))
	}
	p.model.mu.Lock()
	p.model.live[p] = true
	p.model.mu.Unlock()
	go p.wait()
	return nil
}

// wait sees the end of the process, and cleans up.
func (p *process) wait() {
	tick := time.NewTicker(min(time.Second, p.cfg.CancelGrace/4))
	defer tick.Stop()
	defer close(p.gone)
	disconnected := p.conn.closed
	for {
		select {
		case <-tick.C:
			p.supervise()
			p.conn.poll()
			continue
		case <-disconnected:
			// Who has closed the socket exits; who spoke nonsense does not.
			if p.conn.blamed() != nil || !p.child.waitFor(time.Second) {
				p.kill("it has closed its socket")
			}
			disconnected = nil
			continue
		case <-p.child.done:
		}
		break
	}
	p.mu.Lock()
	err := p.deathLocked()
	if p.closing || p.signaled > 0 {
		err = p.child.exit()
		if p.signaled > 0 {
			err = nil
		}
	}
	p.retireLocked(err)
	p.mu.Unlock()
	p.model.mu.Lock()
	delete(p.model.live, p)
	p.model.mu.Unlock()
	p.conn.close(nil)
	if err := os.RemoveAll(p.dir); err != nil {
		p.log.Warn("work directory not removed", "err", err)
	}
}

// deathLocked is why the process has ended. p.mu is held, the child done.
func (p *process) deathLocked() error {
	fault := p.fault
	switch broken := p.conn.blamed(); {
	case errors.Is(broken, errNotProtocol):
		fault = fmt.Sprintf("it wrote a line to its socket that is %v", broken)
	case broken != nil:
		fault = broken.Error()
	}
	err := p.child.exit()
	var crash *CrashError
	if fault == "" && errors.As(err, &crash) {
		return err
	}
	how := "exit status 0, though calls were running"
	if fault != "" {
		how = "killed, for " + fault
	}
	return &CrashError{What: p.what, How: how, Tail: p.child.stderr.tail()}
}

// death waits for the end of a process whose connection has ended.
func (p *process) death() error {
	<-p.gone
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.deathLocked()
}

// kill ends the process at once.
func (p *process) kill(fault string) {
	p.mu.Lock()
	if p.fault == "" {
		p.fault = fault
	}
	p.mu.Unlock()
	p.child.signal(syscall.SIGKILL)
}

func (p *process) retireLocked(err error) {
	if !p.retired {
		p.retired, p.err = true, err
		close(p.done)
	}
}

// Done implements [Instance].
func (p *process) Done() <-chan struct{} { return p.done }

// Err implements [Instance].
func (p *process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *process) initialize(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	call, err := p.conn.send("initialize", initializeParams{
		Protocol: protocolVersion, Version: p.version, Slots: p.cfg.Slots,
		WorkDir: filepath.Join(p.dir, "process"), DataDir: p.cfg.DataDir, Config: p.cfg.Settings,
	})
	var answer json.RawMessage
	if err == nil {
		answer, err = p.conn.wait(ctx, call)
	}
	var refusal *rpcError
	switch {
	case err == nil:
		var result initializeResult
		if err = json.Unmarshal(answer, &result); err == nil {
			err = p.model.describe(p.version, result)
		}
		if err != nil {
			return fmt.Errorf("%s can't be used: its answer to initialize: %w", p.what, err)
		}
		return nil
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		p.kill(fmt.Sprintf("it did not answer initialize within %v", p.cfg.StartTimeout))
		return p.death()
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &refusal):
		return refused(refusal, "load", &Call{Version: p.version}, p.model)
	case errors.Is(err, errDisconnected):
		return p.death()
	}
	return err
}

// Call implements [Instance].
func (p *process) Call(ctx context.Context, c *Call) (json.RawMessage, error) {
	if p.cfg.CallTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.cfg.CallTimeout, &TimeoutError{Func: c.Func, Limit: p.cfg.CallTimeout})
		defer cancel()
	}
	r, err := p.begin(c)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the process has just ended, and its directory is gone
		return nil, p.death()
	case err != nil:
		return nil, err
	}
	defer p.end(r)
	params, err := r.params()
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok && (params.Deadline == nil || deadline.Before(*params.Deadline)) {
		params.Deadline = &deadline
	}
	call, err := p.conn.send("call", params)
	if err != nil && !errors.Is(err, errDisconnected) {
		return nil, err // it was never sent, and will not be answered
	}
	var answer json.RawMessage
	if err == nil {
		answer, err = p.conn.wait(ctx, call)
	}
	if err != nil && ctx.Err() != nil {
		p.cancel(r)
		if _, err := p.conn.wait(context.Background(), call); errors.Is(err, errDisconnected) {
			<-p.gone
		}
		return nil, context.Cause(ctx)
	}
	p.mu.Lock()
	overflow := r.refused
	p.mu.Unlock()
	var refusal *rpcError
	switch {
	case overflow != nil:
		return nil, overflow
	case errors.As(err, &refusal):
		return nil, refused(refusal, c.Func, c, p.model)
	case errors.Is(err, errDisconnected):
		return nil, p.death()
	case err != nil:
		return nil, err
	}
	var result callResult
	if err := json.Unmarshal(answer, &result); err != nil {
		return nil, &FailedError{Func: c.Func, Reason: fmt.Sprintf("the worker's answer is not of the protocol: %v", err)}
	}
	return r.result(result)
}

func (p *process) begin(c *Call) (*runningCall, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls[c.JobID] != nil {
		return nil, fmt.Errorf("job %q runs in %s already", c.JobID, p.what)
	}
	r := &runningCall{Call: c, alive: time.Now()}
	if n := len(p.free); n > 0 {
		r.dir, p.free = p.free[n-1], p.free[:n-1]
	} else {
		p.made++
		r.dir = filepath.Join(p.dir, strconv.Itoa(p.made))
		if err := os.Mkdir(r.dir, 0o700); err != nil {
			return nil, fmt.Errorf("make work directory: %w", err)
		}
	}
	p.calls[c.JobID] = r
	return r, nil
}

// end empties the call's directory, and sees whether the process has served its
// time.
func (p *process) end(r *runningCall) {
	r.growing.Lock()
	r.ended = true
	r.growing.Unlock()
	err := empty(r.dir)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, r.JobID)
	p.signaled = 0
	switch {
	case err == nil:
		p.free = append(p.free, r.dir)
	case !errors.Is(err, fs.ErrNotExist): // else the process is gone
		p.log.Warn("work directory not emptied", "err", err)
	}
	p.served++
	why := ""
	switch {
	case p.retired:
	case p.cfg.MaxCalls > 0 && p.served >= p.cfg.MaxCalls:
		why = "calls"
	case p.cfg.MaxAge > 0 && time.Since(p.begun) >= p.cfg.MaxAge:
		why = "age"
	case p.cfg.MaxRSS > 0 && residentBytes(p.child.cmd.Process.Pid) >= p.cfg.MaxRSS:
		why = "memory"
	}
	if why != "" {
		p.log.Info("worker is replaced", "why", why, "calls", p.served)
		p.retireLocked(nil)
	}
}

// empty makes a directory empty.
func empty(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	_ = f.Close() // it was only read
	for _, name := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	return err
}

func (r *runningCall) outputPath() string { return filepath.Join(r.dir, "output") }

func (r *runningCall) params() (callParams, error) {
	params := callParams{
		JobID: r.JobID, Func: r.Func, Version: r.Version, Kwargs: r.Kwargs,
		OutputPath: r.outputPath(), WorkDir: r.dir, Metadata: r.Metadata, Attempt: r.Attempt,
	}
	if len(params.Kwargs) == 0 {
		params.Kwargs = json.RawMessage("{}")
	}
	if params.Metadata == nil {
		params.Metadata = map[string]string{}
	}
	if !r.Deadline.IsZero() {
		params.Deadline = &r.Deadline
	}
	if r.Input == nil || r.Input.Size() == 0 {
		return params, nil
	}
	path, err := r.Input.Path()
	if err != nil {
		return params, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return params, err
	}
	params.Input = &callInput{Path: path, Size: r.Input.Size()}
	return params, nil
}

// result is what the function has given.
func (r *runningCall) result(result callResult) (json.RawMessage, error) {
	if result.OutputSize == nil {
		r.growing.Lock()
		defer r.growing.Unlock()
		if r.grow != nil {
			return nil, nil // what it has written is the result
		}
		if len(result.Value) == 0 {
			return json.RawMessage("null"), nil
		}
		return result.Value, nil
	}
	if err := r.growTo(*result.OutputSize, result.OutputJSON); err != nil {
		return nil, fmt.Errorf("the worker's output: %w", err)
	}
	return nil, nil
}

// growTo is told how much of the output is there.
func (r *runningCall) growTo(size int64, json bool) (err error) {
	r.growing.Lock()
	defer r.growing.Unlock()
	if r.ended {
		return nil // the worker says it too late
	}
	if r.grow == nil {
		if r.grow, err = r.AdoptOutput(r.outputPath(), json); err != nil {
			return err
		}
	}
	return r.grow(size)
}

// refused is an error that the worker has answered.
func refused(e *rpcError, fn string, c *Call, m *Command) error {
	var data struct {
		Versions  []string `json:"versions"`
		Traceback string   `json:"traceback"`
	}
	if e.Data != nil {
		_ = json.Unmarshal(e.Data, &data) // what isn't of the protocol is left out
	}
	for line := range strings.Lines(data.Traceback) {
		c.Log(slog.LevelError, printable([]byte(strings.TrimRight(line, "\r\n"))))
	}
	message := strings.ToValidUTF8(e.Message, "\uFFFD")
	switch e.Code {
	case codeNoFunction:
		return &FunctionError{Model: m.Describe().Model, Func: fn}
	case codeInvalid:
		return &InputError{Reason: message}
	case codeNoVersion:
		return &VersionError{Version: c.Version, Have: data.Versions}
	case codeNoResources:
		return &ResourceError{Reason: message}
	case codeCanceled:
		return &FailedError{Func: fn, Reason: "the worker has canceled it: " + message}
	}
	return &FailedError{Func: fn, Reason: message}
}

// noted takes what the worker says by itself, in its order.
func (p *process) noted(method string, params json.RawMessage) {
	var note workerNote
	if len(params) > 0 {
		if err := json.Unmarshal(params, &note); err != nil {
			p.log.Warn("worker protocol", "method", method, "err", err)
			return
		}
	}
	p.mu.Lock()
	r := p.calls[note.JobID]
	if r != nil {
		r.alive, r.warned = time.Now(), false
	}
	p.mu.Unlock()
	switch {
	case method == "beat":
		p.beat()
	case method == "versions":
		p.model.setVersions(note.Versions)
	case method == "log":
		p.logged(r, note)
	case r == nil: // late
	case method == "progress":
		r.Progress(note.Done, note.Total, note.Unit, note.Note)
	case method == "output":
		if err := r.growTo(note.Size, false); err != nil {
			p.mu.Lock()
			refuses := r.refused == nil
			r.refused = fmt.Errorf("the worker's output: %w", err)
			p.mu.Unlock()
			if refuses {
				p.cancel(r)
			}
		}
	}
}

func (p *process) beat() {
	p.mu.Lock()
	var calls []*runningCall
	for _, r := range p.calls {
		r.alive, r.warned = time.Now(), false
		calls = append(calls, r)
	}
	p.mu.Unlock()
	for _, r := range calls {
		r.Alive()
	}
}

// logged takes a log notification.
func (p *process) logged(r *runningCall, note workerNote) {
	if !p.lines.AllowN(time.Now(), 1) {
		return
	}
	var level slog.Level
	if level.UnmarshalText([]byte(note.Level)) != nil {
		level = slog.LevelInfo
	}
	line := note.Line
	if len(line) > maxLine {
		line = fmt.Sprintf("%s … %d bytes more", line[:maxLine], len(line)-maxLine)
	}
	line = printable([]byte(strings.TrimRight(line, "\r\n")))
	if r != nil {
		r.Log(level, line)
		return
	}
	p.log.Log(context.Background(), level, "worker", "line", line)
}

// printed takes a line of standard output or error: it is told to all calls that
// run, for nobody knows whose it is.
func (p *process) printed(stream, line string) {
	p.mu.Lock()
	var calls []*runningCall
	for _, r := range p.calls {
		calls = append(calls, r)
	}
	p.mu.Unlock()
	for _, r := range calls {
		r.Log(slog.LevelInfo, "["+stream+"] "+line)
	}
	if len(calls) == 0 {
		p.log.Info("worker printed", "stream", stream, "line", line)
	}
}

// Close implements [Instance].
func (p *process) Close() error {
	p.mu.Lock()
	p.closing = true
	p.retireLocked(nil)
	p.mu.Unlock()
	if err := p.conn.notify("shutdown", struct{}{}); err == nil && p.child.waitFor(p.cfg.StopGrace) {
		<-p.gone
		if err := p.child.exit(); err != nil {
			return fmt.Errorf("shutdown: %w", err)
		}
		return nil
	}
	p.child.stop(p.cfg.CancelGrace, syscall.SIGTERM, syscall.SIGKILL)
	<-p.gone
	return nil
}
