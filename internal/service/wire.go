package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
	"github.com/aipod/aipod/internal/job"
)

// maxKwargs is the most bytes of kwargs that a Spec may have: they are in memory
// and in the job's record.
const maxKwargs = 1 << 20

func invalidf(format string, args ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
}

// specFrom reads a Spec from the wire.
func specFrom(s *aipodv1.Spec) (job.Spec, error) {
	spec := job.Spec{
		Func: s.GetFunc(), Version: s.GetVersion(), Size: -1, SHA256: s.GetSha256(),
		Metadata: s.GetMetadata(), MaxAttempts: int(s.GetMaxAttempts()),
	}
	if s != nil && s.Size != nil {
		spec.Size = s.GetSize()
		if spec.Size < 0 {
			return spec, invalidf("spec.size is %d: leave it out if the size isn't known", spec.Size)
		}
	}
	switch n := len(s.GetKwargsJson()); {
	case spec.Func == "":
		return spec, invalidf("spec.func is empty: name a function, ListFunctions has them")
	case n > maxKwargs:
		return spec, invalidf("spec.kwargs_json has %d bytes, the most is %d: send more as the payload", n, maxKwargs)
	case len(spec.SHA256) != 0 && len(spec.SHA256) != 32:
		return spec, invalidf("spec.sha256 has %d bytes: give the 32 of the digest, or none", len(spec.SHA256))
	case spec.MaxAttempts < 0:
		return spec, invalidf("spec.max_attempts is %d: give 1 or more, or 0 for the pod's own", spec.MaxAttempts)
	case n == 0:
		spec.Kwargs = json.RawMessage("{}")
		return spec, nil
	}
	kwargs, err := codec.ParseKwargs(s.GetKwargsJson())
	switch {
	case err != nil:
		return spec, err
	case kwargs.Compressed:
		return spec, invalidf("spec.kwargs_json is compressed: send plain JSON")
	case kwargs.Size >= 0 && spec.Size >= 0 && kwargs.Size != spec.Size:
		return spec, invalidf("spec.size is %d and %s in the kwargs %d: give one", spec.Size, codec.SizeKey, kwargs.Size)
	case kwargs.Version != "" && spec.Version != "" && kwargs.Version != spec.Version:
		return spec, invalidf("spec.version is %q and version in the kwargs %q: give one", spec.Version, kwargs.Version)
	case kwargs.Size >= 0:
		spec.Size = kwargs.Size
	}
	if spec.Version == "" {
		spec.Version = kwargs.Version
	}
	spec.Kwargs = kwargs.JSON
	return spec, nil
}

func specTo(s job.Spec) *aipodv1.Spec {
	spec := &aipodv1.Spec{
		Func: s.Func, Version: s.Version, KwargsJson: s.Kwargs, Sha256: s.SHA256,
		Metadata: s.Metadata, MaxAttempts: int32(min(s.MaxAttempts, 1<<30)),
	}
	if s.Size >= 0 {
		spec.Size = &s.Size
	}
	return spec
}

// checkJobID is for ids that must be there.
func checkJobID(id string) error {
	if !validJobID.MatchString(id) {
		return invalidf("job_id %.80q: give 1 to 64 of A-Z, a-z, 0-9, _ and -", id)
	}
	return nil
}

// interval is the heartbeat that a request asks for.
func (p *Pod) interval(d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return p.cfg.Heartbeat, nil
	}
	if v := d.AsDuration(); v >= minHeartbeat && v <= maxHeartbeat {
		return v, nil
	}
	return 0, invalidf("heartbeat is %v: give a duration from %v to %v", d.AsDuration(), minHeartbeat, maxHeartbeat)
}

func stateTo(s job.State) aipodv1.State { return aipodv1.State(s) + aipodv1.State_STATE_RECEIVING }

func progressTo(p *job.Progress) *aipodv1.Progress {
	if p == nil {
		return nil
	}
	// What a model reports is not always UTF-8, which protobuf insists on.
	return &aipodv1.Progress{
		Done: p.Done, Total: p.Total,
		Unit: strings.ToValidUTF8(p.Unit, "\uFFFD"), Note: strings.ToValidUTF8(p.Note, "\uFFFD"),
	}
}

func logTo(l *job.Line) *aipodv1.Log {
	return &aipodv1.Log{Level: int32(l.Level), Line: strings.ToValidUTF8(l.Text, "\uFFFD")}
}

func timeTo(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func heartbeatTo(s job.Snapshot) *aipodv1.Heartbeat {
	elapsed := time.Since(s.Created)
	if s.State.Final() {
		elapsed = s.Ended.Sub(s.Created)
	}
	h := &aipodv1.Heartbeat{
		State: stateTo(s.State), QueuePosition: int32(s.Position), Committed: s.Committed,
		Elapsed: durationpb.New(elapsed), Progress: progressTo(s.Progress), Attempt: int32(s.Attempt),
	}
	if s.WorkerAge >= 0 {
		h.WorkerAge = durationpb.New(s.WorkerAge)
	}
	return h
}

// doneTo describes the success of a job that has ended.
func doneTo(r job.Result) (*aipodv1.Done, error) {
	out := r.Output
	if out == nil {
		text := r.JSON
		if len(text) == 0 {
			text = json.RawMessage("null") // a function with nothing to say
		}
		return &aipodv1.Done{ResultJson: text}, nil
	}
	crc, err := out.CRC32C()
	if err != nil {
		return nil, err
	}
	return &aipodv1.Done{HasOutput: true, OutputIsJson: out.JSON, OutputSize: out.Size(), OutputCrc32C: crc}, nil
}

// logTail is how many lines of log a Failed has at most.
const logTail = 20

// failedTo describes the failure of a job that has ended.
func (p *Pod) failedTo(j *job.Job, err error) *aipodv1.Failed {
	log := p.log
	if j.Named() { // as its record was written, the log has learned what callers aren't told
		log = slog.New(slog.DiscardHandler)
	}
	f := explain(err, log)
	failed := &aipodv1.Failed{Code: int32(f.Code), Message: strings.ToValidUTF8(f.Message, "\uFFFD")}
	events, _ := j.Events(0)
	for _, e := range events {
		if e.Log != nil {
			failed.LogTail = append(failed.LogTail, logTo(e.Log))
		}
	}
	failed.LogTail = failed.LogTail[max(0, len(failed.LogTail)-logTail):]
	return failed
}

// explain is what callers are told of an error; log learns the rest.
func explain(err error, log *slog.Logger) *job.ExplainedError {
	var failure *job.ExplainedError
	if errors.As(err, &failure) {
		return failure
	}
	var wire *connect.Error
	if errors.As(toConnect(err, log), &wire) {
		return &job.ExplainedError{Code: uint32(wire.Code()), Message: wire.Message()}
	}
	return &job.ExplainedError{Code: uint32(connect.CodeUnknown), Message: err.Error()}
}

// jobTo describes a job, without its result.
func (p *Pod) jobTo(j *job.Job) *aipodv1.Job {
	s := j.Snapshot()
	m := &aipodv1.Job{
		JobId: j.ID, Spec: specTo(j.Spec()), State: stateTo(s.State), Attempt: int32(s.Attempt),
		CreateTime: timeTo(s.Created), StartTime: timeTo(s.Started), EndTime: timeTo(s.Ended), ExpireTime: timeTo(s.Expires),
		Committed: s.Committed, QueuePosition: int32(s.Position), Progress: progressTo(s.Progress), LastSeq: s.LastSeq,
	}
	if !s.State.Final() {
		return m
	}
	result, err := j.Result()
	if err != nil {
		m.Failed = p.failedTo(j, err)
		return m
	}
	if done, err := doneTo(result); err == nil { // else it is being removed
		m.Done = done
	}
	return m
}
