package service

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/worker"
)

func (h *jobHandler) ListFunctions(context.Context, *connect.Request[aipodv1.ListFunctionsRequest]) (*connect.Response[aipodv1.ListFunctionsResponse], error) {
	d := h.pod.pool.Describe()
	res := &aipodv1.ListFunctionsResponse{Model: d.Model, Versions: d.Versions}
	for _, f := range d.Functions {
		res.Functions = append(res.Functions, &aipodv1.Function{
			Name: f.Name, Doc: f.Doc, KwargsSchemaJson: f.Kwargs, PayloadType: f.Payload,
		})
	}
	return connect.NewResponse(res), nil
}

func (h *jobHandler) GetPod(context.Context, *connect.Request[aipodv1.GetPodRequest]) (*connect.Response[aipodv1.GetPodResponse], error) {
	p := h.pod
	status := p.pool.Status()
	res := &aipodv1.GetPodResponse{
		Model: p.pool.Describe().Model, Serving: !isClosed(p.table.Draining()), StartTime: timestamppb.New(p.started),
		MaxInstances: int32(status.MaxInstances), Queued: int32(status.Queued), MaxQueue: int32(status.MaxQueue),
		DownVersions: status.Down, MaxPayload: p.cfg.MaxPayload, Stored: p.spool.Usage().Bytes,
	}
	for _, inst := range status.Instances {
		res.Instances = append(res.Instances, &aipodv1.Instance{
			Version: inst.Version, State: instanceStateTo(inst.State), Busy: int32(inst.Busy), Slots: int32(inst.Slots),
		})
	}
	return connect.NewResponse(res), nil
}

func instanceStateTo(s worker.InstanceState) aipodv1.InstanceState {
	switch s {
	case worker.InstanceLoading:
		return aipodv1.InstanceState_INSTANCE_STATE_LOADING
	case worker.InstanceReady:
		return aipodv1.InstanceState_INSTANCE_STATE_READY
	case worker.InstanceRetired:
		return aipodv1.InstanceState_INSTANCE_STATE_RETIRED
	}
	return aipodv1.InstanceState_INSTANCE_STATE_UNSPECIFIED
}
