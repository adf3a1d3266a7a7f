package service

import (
	"testing"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
	"github.com/aipod/aipod/internal/transport"
)

// eachStep is eachWay for what needs no duplex, so HTTP/1.1 will do.
func eachStep(t *testing.T, tp *testPod, test func(t *testing.T, s steps)) {
	t.Helper()
	eachWay(t, tp, func(t *testing.T, c aipodv1connect.JobServiceClient, _ way) { test(t, steps{t, c}) })
	t.Run("connect json http1", func(t *testing.T) {
		old := transport.NewHTTPClient(transport.ClientConfig{HTTP1: true})
		defer old.CloseIdleConnections()
		test(t, steps{t, aipodv1connect.NewJobServiceClient(old, tp.url, connect.WithProtoJSON())})
	})
}

// steps are the calls that are not streams both ways.
type steps struct {
	t testing.TB
	c aipodv1connect.JobServiceClient
}

func (s steps) create(id string, spec *aipodv1.Spec) (*aipodv1.Job, error) {
	res, err := s.c.CreateJob(soon(s.t), connect.NewRequest(&aipodv1.CreateJobRequest{JobId: id, Spec: spec}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetJob(), nil
}

func (s steps) mustCreate(id string, spec *aipodv1.Spec) *aipodv1.Job {
	s.t.Helper()
	j, err := s.create(id, spec)
	if err != nil {
		s.t.Fatal(err)
	}
	return j
}

func (s steps) write(id string, chunk *aipodv1.Chunk, end *aipodv1.CloseInput) (*aipodv1.WriteInputResponse, error) {
	res, err := s.c.WriteInput(soon(s.t), connect.NewRequest(&aipodv1.WriteInputRequest{JobId: id, Chunk: chunk, CloseInput: end}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func (s steps) mustWrite(id string, chunk *aipodv1.Chunk, end *aipodv1.CloseInput) *aipodv1.WriteInputResponse {
	s.t.Helper()
	res, err := s.write(id, chunk, end)
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

func (s steps) get(id string) (*aipodv1.Job, error) {
	res, err := s.c.GetJob(soon(s.t), connect.NewRequest(&aipodv1.GetJobRequest{JobId: id}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetJob(), nil
}

func (s steps) mustGet(id string) *aipodv1.Job {
	s.t.Helper()
	j, err := s.get(id)
	if err != nil {
		s.t.Fatal(err)
	}
	return j
}

func (s steps) cancel(id string) (*aipodv1.Job, error) {
	res, err := s.c.CancelJob(soon(s.t), connect.NewRequest(&aipodv1.CancelJobRequest{JobId: id}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetJob(), nil
}

func (s steps) delete(id string) error {
	_, err := s.c.DeleteJob(soon(s.t), connect.NewRequest(&aipodv1.DeleteJobRequest{JobId: id}))
	return err
}

func (s steps) list(req *aipodv1.ListJobsRequest) (ids []string, next string, err error) {
	res, err := s.c.ListJobs(soon(s.t), connect.NewRequest(req))
	if err != nil {
		return nil, "", err
	}
	for _, j := range res.Msg.GetJobs() {
		ids = append(ids, j.GetJobId())
	}
	return ids, res.Msg.GetNextPageToken(), nil
}

// made is a job with its input, whose function has been begun or has ended.
func (s steps) made(id string, spec *aipodv1.Spec, input string) {
	s.t.Helper()
	s.mustCreate(id, spec)
	s.mustWrite(id, chunkOf(0, []byte(input)), endOf([]byte(input)))
}

func (s steps) untilState(id string, want aipodv1.State) {
	s.t.Helper()
	eventually(s.t, id+" is not "+want.String(), func() (any, bool) {
		got := s.mustGet(id).GetState()
		return got, got == want
	})
}
