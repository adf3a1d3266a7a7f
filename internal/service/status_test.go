package service

import (
	"encoding/json"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/worker"
)

func TestListFunctionsTellsWhatFormsNeed(t *testing.T) {
	m := newTestModel()
	m.described = worker.Function{
		Name: "form", Doc: "Takes a table", Kwargs: json.RawMessage(`{"type":"object"}`), Payload: "text/csv",
	}
	tp := startPod(t, func(cfg *Config) {
		cfg.OpenModel = func(string) (worker.Model, error) { return m, nil }
	})
	eachStep(t, tp, func(t *testing.T, s steps) {
		res, err := s.c.ListFunctions(soon(t), connect.NewRequest(&aipodv1.ListFunctionsRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		fns := res.Msg.GetFunctions()
		want := &aipodv1.Function{Name: "form", Doc: "Takes a table", KwargsSchemaJson: []byte(`{"type":"object"}`), PayloadType: "text/csv"}
		if diff := cmp.Diff(want, fns[len(fns)-1], protocmp.Transform()); diff != "" {
			t.Errorf("the function (-want +got):\n%s", diff)
		}
	})
}

func TestGetPod(t *testing.T) {
	tp := startPod(t, func(cfg *Config) {
		cfg.Pool = worker.Config{Slots: 1, Instances: 1, Queue: 7}
		cfg.MaxPayload = 1 << 20
	})
	s := steps{t, tp.jobs(t, grpcWay.p)}
	getPod := func() *aipodv1.GetPodResponse {
		t.Helper()
		res, err := s.c.GetPod(soon(t), connect.NewRequest(&aipodv1.GetPodRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg
	}
	idle := getPod()
	want := &aipodv1.GetPodResponse{Model: "test", Serving: true, MaxInstances: 1, MaxQueue: 7, MaxPayload: 1 << 20}
	ignoreStart := protocmp.IgnoreFields(&aipodv1.GetPodResponse{}, "start_time")
	if diff := cmp.Diff(want, idle, protocmp.Transform(), ignoreStart); diff != "" {
		t.Errorf("idle (-want +got):\n%s", diff)
	}
	if idle.GetStartTime().AsTime().After(timestamppb.Now().AsTime()) {
		t.Errorf("started at %v", idle.GetStartTime().AsTime())
	}

	s.made("first", specOf("hold", "{}"), "")
	s.untilState("first", aipodv1.State_STATE_RUNNING)
	s.made("second", specOf("hold", "{}"), "")
	s.untilState("second", aipodv1.State_STATE_QUEUED)
	// It is queued, and then in the pool's queue.
	eventually(t, "the queue is empty", func() (any, bool) { n := getPod().GetQueued(); return n, n == 1 })
	want.Queued = 1
	want.Instances = []*aipodv1.Instance{{State: aipodv1.InstanceState_INSTANCE_STATE_READY, Busy: 1, Slots: 1}}
	if diff := cmp.Diff(want, getPod(), protocmp.Transform(), ignoreStart); diff != "" {
		t.Errorf("busy (-want +got):\n%s", diff)
	}
	close(tp.model.release)
	s.untilState("second", aipodv1.State_STATE_SUCCEEDED)
}

func TestGetPodTellsThatItLoads(t *testing.T) {
	tp := startPod(t, nil)
	s := steps{t, tp.jobs(t, grpcWay.p)}
	s.made("slow", &aipodv1.Spec{Func: "hello", Version: "slow"}, "")
	s.untilState("slow", aipodv1.State_STATE_LOADING)
	res, err := s.c.GetPod(soon(t), connect.NewRequest(&aipodv1.GetPodRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	want := []*aipodv1.Instance{{Version: "slow", State: aipodv1.InstanceState_INSTANCE_STATE_LOADING, Slots: 100}}
	if diff := cmp.Diff(want, res.Msg.GetInstances(), protocmp.Transform()); diff != "" {
		t.Errorf("instances (-want +got):\n%s", diff)
	}
	close(tp.model.release)
	s.untilState("slow", aipodv1.State_STATE_SUCCEEDED)
}
