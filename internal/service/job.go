package service

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/job"
	"github.com/aipod/aipod/internal/spool"
)

// jobHandler is the service aipod.v1.JobService. Run and WatchJob are in files
// of their own.
type jobHandler struct{ pod *Pod }

// create makes a durable job or finds it. What the model or the queue has no
// room for is refused before anything is sent, but not a job that is there.
func (p *Pod) create(id string, spec job.Spec) (j *job.Job, attached bool, err error) {
	if _, err := p.table.Get(id); err != nil {
		if err := p.admits(spec); err != nil {
			return nil, false, err
		}
		if err := p.fits(spec.Size); err != nil {
			return nil, false, err
		}
	}
	return p.table.Create(id, spec)
}

// admits refuses calls that would fail after their upload.
func (p *Pod) admits(spec job.Spec) error {
	if _, err := p.pool.Describe().Function(spec.Func); err != nil {
		return err
	}
	return p.pool.Full()
}

// fits refuses an input that can't be stored before it is sent; size is -1 if it
// isn't known.
func (p *Pod) fits(size int64) error {
	if limit := p.cfg.MaxPayload; limit > 0 && size > limit {
		return detailed(connect.CodeResourceExhausted, &spool.LimitError{Limit: limit}, &aipodv1.SizeLimit{Limit: limit, Size: size})
	}
	if size <= 0 {
		return nil
	}
	return p.spool.Fits(size)
}

func (h *jobHandler) CreateJob(_ context.Context, req *connect.Request[aipodv1.CreateJobRequest]) (*connect.Response[aipodv1.CreateJobResponse], error) {
	spec, err := specFrom(req.Msg.GetSpec())
	if err != nil {
		return nil, err
	}
	id := req.Msg.GetJobId()
	if id == "" {
		if id, err = job.NewID(); err != nil {
			return nil, err
		}
	}
	if err := checkJobID(id); err != nil {
		return nil, err
	}
	j, _, err := h.pod.create(id, spec)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&aipodv1.CreateJobResponse{Job: h.pod.jobTo(j)}), nil
}

// chunkFrom reads a Chunk from the wire and decodes it, in buf if it can.
func chunkFrom(c *aipodv1.Chunk, buf []byte) ([]byte, error) {
	chunk := codec.Chunk{Offset: c.GetOffset(), Data: c.GetData(), RawSize: int(c.GetRawSize())}
	switch c.GetCoding() {
	case aipodv1.Coding_CODING_UNSPECIFIED, aipodv1.Coding_CODING_RAW:
		if c.GetRawSize() == 0 {
			chunk.RawSize = len(chunk.Data)
		}
	case aipodv1.Coding_CODING_ZSTD:
		chunk.Coding = codec.CodingZstd
	default:
		return nil, invalidf("the chunk at offset %d has the unknown coding %v", c.GetOffset(), c.GetCoding())
	}
	if c.Crc32C == nil {
		return codec.DecodeChunkUnchecked(chunk, buf)
	}
	chunk.CRC32C = c.GetCrc32C()
	return codec.DecodeChunk(chunk, buf)
}

// decoded are buffers of at most codec.MaxChunk bytes. They are shared, so that an
// upload that stalls has none.
var decoded = sync.Pool{New: func() any { return new([]byte) }}

// put decodes a chunk and has it written.
func put(c *aipodv1.Chunk, write func(off int64, p []byte) (int64, error)) error {
	buf := decoded.Get().(*[]byte)
	defer decoded.Put(buf)
	data, err := chunkFrom(c, *buf)
	if err != nil {
		return err
	}
	if c.GetCoding() == aipodv1.Coding_CODING_ZSTD {
		*buf = data[:0]
	}
	_, err = write(c.GetOffset(), data)
	return err
}

// turnWait is how long a chunk waits for those before it. Over a slow link they may
// take seconds; proxies bear that much silence, or the chunk is sent again.
const turnWait = 10 * time.Second

// maxAhead is how far, in bytes, a chunk may be before its turn: a browser has
// several on their way, on connections of their own.
const maxAhead = 64 << 20

func (h *jobHandler) WriteInput(ctx context.Context, req *connect.Request[aipodv1.WriteInputRequest]) (*connect.Response[aipodv1.WriteInputResponse], error) {
	j, err := h.pod.get(req.Msg.GetJobId())
	if err != nil {
		return nil, err
	}
	chunk, end := req.Msg.GetChunk(), req.Msg.GetCloseInput()
	if chunk == nil && end == nil {
		return nil, invalidf("neither chunk nor close_input is set: there is nothing to do")
	}
	w := j.SharedWriter()
	if chunk != nil {
		ctx, cancel := context.WithTimeout(ctx, turnWait)
		defer cancel()
		err := put(chunk, func(off int64, p []byte) (int64, error) {
			if off > j.Committed()+maxAhead {
				return w.Put(off, p)
			}
			return w.PutInTurn(ctx, off, p)
		})
		if err != nil {
			return nil, err
		}
	}
	if end != nil {
		// A large input may take long to be stored, and nobody likes a unary call
		// that is silent.
		ctx, cancel := context.WithTimeout(ctx, h.pod.cfg.Heartbeat)
		defer cancel()
		if err := w.Close(ctx, end.GetSize(), end.Crc32C); err != nil {
			return nil, err
		}
	}
	s := j.Snapshot()
	return connect.NewResponse(&aipodv1.WriteInputResponse{Committed: s.Committed, State: stateTo(s.State)}), nil
}

// get finds a durable job.
func (p *Pod) get(id string) (*job.Job, error) {
	if err := checkJobID(id); err != nil {
		return nil, err
	}
	return p.table.Get(id)
}

// maxResult is the largest JSON result, in bytes, that GetJob gives. Larger ones
// come by WatchJob.
const maxResult = 3 << 20

func (h *jobHandler) GetJob(_ context.Context, req *connect.Request[aipodv1.GetJobRequest]) (*connect.Response[aipodv1.GetJobResponse], error) {
	j, err := h.pod.get(req.Msg.GetJobId())
	if err != nil {
		return nil, err
	}
	m := h.pod.jobTo(j)
	if out := j.Output(); out != nil && m.GetDone().GetOutputIsJson() && out.Size() <= maxResult {
		text := make([]byte, out.Size())
		if _, err := io.ReadFull(io.NewSectionReader(out, 0, out.Size()), text); err != nil {
			return nil, err
		}
		m.Done.ResultJson = text
	}
	return connect.NewResponse(&aipodv1.GetJobResponse{Job: m}), nil
}

// The sizes of ListJobs's pages.
const (
	defaultPage = 100
	maxPage     = 1000
)

// ListJobs takes the id of a page's last job for the token of the next page.
func (h *jobHandler) ListJobs(_ context.Context, req *connect.Request[aipodv1.ListJobsRequest]) (*connect.Response[aipodv1.ListJobsResponse], error) {
	size := int(req.Msg.GetPageSize())
	switch {
	case size < 0:
		return nil, invalidf("page_size is %d: give 1 to %d, or 0 for %d", size, maxPage, defaultPage)
	case size == 0:
		size = defaultPage
	}
	size = min(size, maxPage)
	list := h.pod.table.List()
	if token := req.Msg.GetPageToken(); token != "" {
		i := slices.IndexFunc(list, func(j *job.Job) bool { return j.ID == token })
		if i < 0 {
			return nil, invalidf("page_token %.80q: its job has gone; begin again without a token", token)
		}
		list = list[i+1:]
	}
	res := new(aipodv1.ListJobsResponse)
	for _, j := range list {
		if states := req.Msg.GetStates(); len(states) > 0 && !slices.Contains(states, stateTo(j.State())) {
			continue
		}
		if len(res.Jobs) == size {
			res.NextPageToken = res.Jobs[size-1].GetJobId()
			break
		}
		m := h.pod.jobTo(j)
		if m.Done != nil {
			m.Done.ResultJson = nil
		}
		if m.Failed != nil {
			m.Failed.LogTail = nil
		}
		res.Jobs = append(res.Jobs, m)
	}
	return connect.NewResponse(res), nil
}

// cancelWait is how long CancelJob waits for the end to be recorded.
const cancelWait = time.Second

func (h *jobHandler) CancelJob(ctx context.Context, req *connect.Request[aipodv1.CancelJobRequest]) (*connect.Response[aipodv1.CancelJobResponse], error) {
	j, err := h.pod.get(req.Msg.GetJobId())
	if err != nil {
		return nil, err
	}
	j.Cancel(job.ErrCanceled)
	select {
	case <-j.Done():
	case <-time.After(cancelWait):
	case <-ctx.Done():
	}
	return connect.NewResponse(&aipodv1.CancelJobResponse{Job: h.pod.jobTo(j)}), nil
}

func (h *jobHandler) DeleteJob(_ context.Context, req *connect.Request[aipodv1.DeleteJobRequest]) (*connect.Response[aipodv1.DeleteJobResponse], error) {
	if err := checkJobID(req.Msg.GetJobId()); err != nil {
		return nil, err
	}
	if err := h.pod.table.Delete(req.Msg.GetJobId()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&aipodv1.DeleteJobResponse{}), nil
}
