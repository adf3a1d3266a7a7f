package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/aipod/aipod/client"
	"github.com/aipod/aipod/internal/bench"
)

const (
	// device is the veth pair's name at both ends.
	device = "link0"
	// The addresses are the two of a network that nothing else is in.
	senderIP, podIP, subnet = "10.77.0.1", "10.77.0.2", "10.77.0.0/30"
	podAddr                 = podIP + ":50051"
	// tidying is how long removing something may take.
	tidying = 10 * time.Second
)

// A lab is two network namespaces joined by a link, with a pod in one of them. It
// is for one goroutine.
type lab struct {
	stderr   io.Writer
	dir      string // temporary
	from, to string // the namespaces of sender and pod
	made     []string
	tcp      string // its congestion control
	pod      *process
}

// openLab makes a lab. Close it.
func openLab(ctx context.Context, congestion string, stderr io.Writer) (_ *lab, err error) {
	if err := check(); err != nil {
		return nil, err
	}
	pid := os.Getpid()
	l := &lab{
		stderr: stderr,
		from:   fmt.Sprintf("aipod-links-%d-a", pid),
		to:     fmt.Sprintf("aipod-links-%d-b", pid),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.dir, err = os.MkdirTemp("", "aipod-links-"); err != nil {
		return nil, err
	}
	server := filepath.Join(l.dir, "server")
	if _, err := output(ctx, "go", "build", "-o", server, "github.com/aipod/aipod/cmd/server"); err != nil {
		return nil, fmt.Errorf("build the pod: %w", err)
	}
	if err := l.join(ctx); err != nil {
		return nil, err
	}
	if err := l.control(ctx, congestion); err != nil {
		return nil, err
	}
	l.pod, err = l.start(l.to, nil, nil, server, "--listen", podAddr, "--data-dir", filepath.Join(l.dir, "data"), "--log-level", "warn")
	if err != nil {
		return nil, fmt.Errorf("start the pod: %w", err)
	}
	return l, nil
}

// check tells what the lab needs and isn't there.
func check() error {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root, for network namespaces: run it with sudo")
	}
	for _, tool := range []string{"ip", "tc", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool+" on the PATH: ip and tc come with iproute2")
		}
	}
	if len(missing) > 0 {
		return errors.New("needs " + strings.Join(missing, "; "))
	}
	return nil
}

// join makes the namespaces and the link between them.
func (l *lab) join(ctx context.Context) error {
	for _, name := range []string{l.from, l.to} {
		l.made = append(l.made, name) // it may be there even if this fails
		if _, err := output(ctx, "ip", "netns", "add", name); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
	}
	for _, args := range [][]string{
		{"link", "add", device, "netns", l.from, "type", "veth", "peer", "name", device, "netns", l.to},
		{"-n", l.from, "link", "set", "lo", "up"},
		{"-n", l.to, "link", "set", "lo", "up"},
		{"-n", l.from, "addr", "add", senderIP + "/30", "dev", device},
		{"-n", l.to, "addr", "add", podIP + "/30", "dev", device},
		{"-n", l.from, "link", "set", device, "up"},
		{"-n", l.to, "link", "set", device, "up"},
	} {
		if _, err := output(ctx, "ip", args...); err != nil {
			return fmt.Errorf("join the namespaces: %w", err)
		}
	}
	return nil
}

// control sets TCP's congestion control in both namespaces, if the kernel lets it.
func (l *lab) control(ctx context.Context, want string) (err error) {
	const setting = "net.ipv4.tcp_congestion_control"
	for _, name := range []string{l.from, l.to} {
		sysctl := []string{"netns", "exec", name, "sysctl", "-n"}
		// The kernel may not have it, or containers may not choose.
		_, _ = output(ctx, "ip", append(sysctl, "-w", setting+"="+want)...)
		if l.tcp, err = output(ctx, "ip", append(sysctl, setting)...); err != nil {
			return fmt.Errorf("ask for the congestion control: %w", err)
		}
	}
	return nil
}

func (l *lab) congestion() string { return l.tcp }

// kernel is the operating system.
func (l *lab) kernel() string {
	name, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "Linux"
	}
	return "Linux " + strings.TrimSpace(string(name))
}

// shape makes the link one of that shape.
func (l *lab) shape(ctx context.Context, s shape) error {
	// There may be none to delete.
	_, _ = output(ctx, "tc", "-n", l.from, "qdisc", "del", "dev", device, "root")
	if s.mbit == 0 {
		return nil
	}
	_, err := output(ctx, "tc", "-n", l.from, "qdisc", "add", "dev", device, "root", "tbf",
		"rate", strconv.Itoa(s.mbit)+"mbit", "burst", strconv.Itoa(s.burst), "limit", strconv.Itoa(s.queue))
	if err != nil {
		return fmt.Errorf("shape the link: %w", err)
	}
	return nil
}

// close removes all that the lab made.
func (l *lab) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), tidying)
	defer cancel()
	var errs []error
	if l.pod != nil {
		errs = append(errs, l.pod.stop())
	}
	for _, name := range l.made {
		if _, err := output(ctx, "ip", "netns", "del", name); err != nil {
			errs = append(errs, err)
		}
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

// A sender is a process at the other end of the link than the pod, which holds a
// payload and sends it as often as it is asked; see send.
type sender struct {
	process  *process
	requests *json.Encoder
	replies  *json.Decoder
	stdin    io.Closer
}

// startSender starts one, and waits until it is ready.
func (l *lab) startSender(ctx context.Context, kind bench.Kind, size int64) (*sender, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	stdout, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	defer func() { _ = out.Close() }()
	s := &sender{requests: json.NewEncoder(stdin), replies: json.NewDecoder(stdout), stdin: stdin}
	s.process, err = l.start(l.from, in, out, self, senderCommand, podAddr, string(kind), strconv.FormatInt(size, 10))
	if err != nil {
		return nil, errors.Join(err, stdin.Close(), stdout.Close())
	}
	if _, err := s.reply(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start the sender: %w", err), s.stop())
	}
	return s, nil
}

// call sends the payload.
func (s *sender) call(ctx context.Context, level client.Level) (call, error) {
	if err := s.requests.Encode(request{Level: level}); err != nil {
		return call{}, err
	}
	return s.reply(ctx)
}

func (s *sender) reply(ctx context.Context) (call, error) {
	defer context.AfterFunc(ctx, func() { _ = s.process.cmd.Process.Kill() })()
	var r reply
	if err := s.replies.Decode(&r); err != nil {
		if ctx.Err() != nil {
			return call{}, ctx.Err()
		}
		return call{}, fmt.Errorf("the sender has ended: %w", err)
	}
	if r.Error != "" {
		return call{}, errors.New(r.Error)
	}
	return r.Call, nil
}

// stop ends it.
func (s *sender) stop() error {
	return errors.Join(s.stdin.Close(), s.process.stop())
}
