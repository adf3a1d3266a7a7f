package doctor

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/transport"
)

// The HTTP versions, as findings name them.
const (
	overHTTP2 = "h2"
	overHTTP1 = "http/1.1"
)

const headerJob = "x-job-id"

// A way is one HTTP version of the URL. Unless said otherwise it is
// written by probeProtocols only.
type way struct {
	cfg      *Config
	over     string
	works    []transport.Protocol // that serve JobService
	protocol transport.Protocol   // of works, that the other probes use
	fn       string               // a function of the pod; it is never run
	stops    bool                 // uploads stop when their answer begins; written by probeBuffering
	// astray says that requests about a job don't always come to its pod; written by
	// probeSticky.
	astray atomic.Bool
}

// A link is a client with connections of its own. Close it.
type link struct {
	jobs   aipodv1connect.JobServiceClient
	health *grpchealth.Client
	close  func()
}

// open makes a link. It does not connect.
func (w *way) open(p transport.Protocol) (*link, error) {
	options, err := transport.ClientOptions(p)
	if err != nil {
		return nil, err
	}
	client := transport.NewHTTPClient(transport.ClientConfig{HTTP1: w.over == overHTTP1, TLS: w.cfg.TLS.Clone()})
	withHeader := &http.Client{Transport: &headerTransport{client.Transport, w.cfg.Header}}
	return &link{
		jobs:   aipodv1connect.NewJobServiceClient(withHeader, w.cfg.URL, options...),
		health: grpchealth.NewClient(withHeader, w.cfg.URL, options...),
		close:  client.CloseIdleConnections,
	}, nil
}

// A headerTransport adds the user's header to each request.
type headerTransport struct {
	http.RoundTripper
	header http.Header
}

func (t *headerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(t.header) > 0 {
		r = r.Clone(r.Context())
		for name, values := range t.header {
			for _, value := range values {
				r.Header.Add(name, value)
			}
		}
	}
	return t.RoundTripper.RoundTrip(r)
}

// jobRequest is a request about a job, which a proxy can send to the job's pod.
func jobRequest[T any](id string, msg *T) *connect.Request[T] {
	req := connect.NewRequest(msg)
	req.Header().Set(headerJob, id)
	return req
}

// unaryLimit is for requests that are answered at once, at any round-trip time.
const unaryLimit = 10 * time.Second

// newJobID is the id of a job that is no one's but this run's.
func newJobID() string { return "doctor-" + uuid.NewString() }

// createJob makes a durable job that waits for its input. Delete it.
func (w *way) createJob(ctx context.Context, l *link) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, unaryLimit)
	defer cancel()
	id = newJobID()
	_, err = l.jobs.CreateJob(ctx, jobRequest(id, &aipodv1.CreateJobRequest{JobId: id, Spec: &aipodv1.Spec{Func: w.fn}}))
	return id, err
}

// deleteJob removes a job, also when ctx has ended. Where requests go astray it
// asks often enough to find the job's pod most likely.
func (w *way) deleteJob(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	times := 1
	if w.astray.Load() {
		times = 16
	}
	for range times {
		l, err := w.open(w.protocol)
		if err != nil {
			return
		}
		_, _ = l.jobs.DeleteJob(ctx, jobRequest(id, &aipodv1.DeleteJobRequest{JobId: id}))
		l.close()
	}
}

// hasJob says whether the pod that the proxy chooses has the job.
func hasJob(ctx context.Context, l *link, id string) (bool, error) {
	_, err := getJob(ctx, l, id)
	if connect.CodeOf(err) == connect.CodeNotFound && connect.IsWireError(err) {
		return false, nil
	}
	return err == nil, err
}

func getJob(ctx context.Context, l *link, id string) (*aipodv1.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, unaryLimit)
	defer cancel()
	res, err := l.jobs.GetJob(ctx, jobRequest(id, &aipodv1.GetJobRequest{JobId: id}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetJob(), nil
}

// openMessage begins a Run whose job lives as long as its stream.
func (w *way) openMessage(id string, heartbeat time.Duration) *aipodv1.RunRequest {
	return &aipodv1.RunRequest{Message: &aipodv1.RunRequest_Open{Open: &aipodv1.Open{
		JobId: id, Spec: &aipodv1.Spec{Func: w.fn}, Heartbeat: durationpb.New(heartbeat),
	}}}
}

// saidByPod tells an answer of the pod from what proxies and connections make of
// a call that they end.
func saidByPod(err error) bool {
	if !connect.IsWireError(err) {
		return false
	}
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeUnknown, connect.CodeInternal, connect.CodeDeadlineExceeded, connect.CodeCanceled:
		return false
	}
	return true
}

// text is an error's text without connect's code in front.
func text(err error) string {
	var rpc *connect.Error
	if errors.As(err, &rpc) {
		return rpc.Message()
	}
	return err.Error()
}
